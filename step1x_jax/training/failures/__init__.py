"""Signals, lost processes and values that are not finite."""
