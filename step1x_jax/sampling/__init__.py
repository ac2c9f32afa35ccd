"""From noise to latents: schedule, guidance and the Euler sampler."""
