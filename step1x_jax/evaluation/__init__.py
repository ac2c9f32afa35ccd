"""Benchmarks of edited pictures: generating, judging, statistics, pairs, people."""
