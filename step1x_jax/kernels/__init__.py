"""Attention kernels, and the functions that choose between them."""
