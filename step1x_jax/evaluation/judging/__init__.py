"""Judges: what is asked of them, how, and what their replies mean."""
