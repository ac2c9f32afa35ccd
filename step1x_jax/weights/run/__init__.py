"""The folder of a run: which checkpoints it has, what they say of themselves, and their arrays."""
