"""The device mesh, the table from logical to mesh axes, and the properties of devices."""
