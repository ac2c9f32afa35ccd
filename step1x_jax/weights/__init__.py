"""Weights from and to the files of other worlds."""
