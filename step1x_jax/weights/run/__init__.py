"""A run's folder, as others read it: its checkpoints, their descriptions and their arrays."""
