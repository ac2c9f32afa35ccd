"""Names of tensors in published layouts, and where ours lie in them."""
