"""Training: the stages' objectives, the loop, and what survives it."""
