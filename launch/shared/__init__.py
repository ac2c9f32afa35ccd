"""What several commands have in common: how they start and end, and flags."""
