"""The device mesh and the table that maps logical axes onto it."""
