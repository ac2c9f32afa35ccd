"""Edit records: schema, shards, precomputation and the input pipeline."""
