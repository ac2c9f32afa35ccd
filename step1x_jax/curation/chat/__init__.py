"""Stages that ask a language model about rows: what they share, plans of edits, verdicts."""
