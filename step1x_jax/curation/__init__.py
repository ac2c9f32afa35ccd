"""Data creation: from photographs to triplets of source, instruction and target."""
