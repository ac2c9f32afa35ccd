"""Weight files and folders in other programs' formats."""
