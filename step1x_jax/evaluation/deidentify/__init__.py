"""A benchmark from private pictures: what is in them, what a person decides, what goes out."""
