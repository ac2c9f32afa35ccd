"""Stages over parts of rows: what is made once stays, and is made again only where it changed."""
