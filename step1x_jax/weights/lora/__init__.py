"""LoRAs: files, merging, and our adapters."""
