"""Weights of all formats: opened, loaded onto devices, written."""
