"""Weight files and folders as other programs write them."""
