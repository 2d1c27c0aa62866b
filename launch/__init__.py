"""Ways to start a run on more than one process."""
