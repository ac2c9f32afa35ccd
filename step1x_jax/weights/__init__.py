"""Weights: opening whatever holds them, loading onto devices, writing for other programs."""
