"""launch.demo: the page, and who waits for what."""
