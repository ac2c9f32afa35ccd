"""Commands: flags, printing, files. Run them as `python -m launch.NAME` from the root."""

from launch.shared.interrupt import install_if_command

install_if_command()
