"""The quickstart: a small text encoder, a small autoencoder, held-out edits and the report."""
