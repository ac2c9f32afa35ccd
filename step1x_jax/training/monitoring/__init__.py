"""Metrics, timing, FLOPs, evaluation on held-out edits, profiles."""
