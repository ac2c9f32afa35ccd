"""Golden vectors, made with the published code (see tests/golden.py)."""

import pathlib

VECTORS = pathlib.Path(__file__).parent
