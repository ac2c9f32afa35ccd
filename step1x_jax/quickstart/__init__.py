"""The first five minutes: photographs, programmed edits, a small encoder and the report."""
