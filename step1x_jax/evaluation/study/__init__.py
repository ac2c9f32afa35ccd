"""Asking people: pages on which they rate pictures, and what their ratings say."""
