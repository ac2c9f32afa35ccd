"""Comparing methods by pairs of their pictures: verdicts, scores from them, and judges checked."""
