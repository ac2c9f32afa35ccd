"""Official and other published layouts: names of tensors, and how they map to our parameters."""
