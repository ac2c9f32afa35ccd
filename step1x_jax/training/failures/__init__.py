"""What ends a run, or must not."""
