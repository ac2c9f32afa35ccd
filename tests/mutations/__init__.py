"""Plausible mistakes, and the tests that should notice them: see __main__.py."""
