"""What launch.bench measures."""
