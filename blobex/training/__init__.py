"""Training of every network; Lightning lives here and nowhere else."""
