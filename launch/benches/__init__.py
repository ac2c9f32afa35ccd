"""The benchmarks of launch.bench."""
