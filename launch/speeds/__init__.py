"""launch.calibrate and launch.bench sample: edits at several speeds, beside the exact ones."""
