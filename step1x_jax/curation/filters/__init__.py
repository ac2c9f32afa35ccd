"""What rejects a finished edit: each filter takes a row and gives a reason, or None."""
