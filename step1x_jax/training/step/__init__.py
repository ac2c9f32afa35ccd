"""The train step: loss, gradients, optimizer, precision."""
