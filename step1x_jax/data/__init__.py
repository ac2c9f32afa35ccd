"""Edit records: schema, shards, precomputing and the input pipeline."""
