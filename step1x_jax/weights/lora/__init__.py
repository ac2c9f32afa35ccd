"""LoRAs: their files, merging, and our adapters."""
