"""launch.edit: what is asked for, made, saved and told."""
