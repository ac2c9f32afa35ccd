"""Models of other libraries as stages: annotations, scores and generators of candidates."""
