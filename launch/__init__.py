"""Commands: flags, printing, files. Run them as `python -m launch.NAME` from the root."""
