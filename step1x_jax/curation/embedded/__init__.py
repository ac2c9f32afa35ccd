"""Edits of photographs by arithmetic alone: no model, no download, pure functions of pictures."""
