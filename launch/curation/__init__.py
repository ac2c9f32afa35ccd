"""launch.curate: flags, our editor as a stage, and what is made of results."""
