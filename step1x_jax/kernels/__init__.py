"""The attention of the model, behind one function."""
