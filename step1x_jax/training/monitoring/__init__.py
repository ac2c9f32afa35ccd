"""What a run says: metrics, time, FLOPs, held-out edits, profiles."""
