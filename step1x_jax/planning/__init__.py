"""What a step will need and take on chips that are not here, from its compiled program."""
