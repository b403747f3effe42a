"""What sweeps tune: the trials of the counterfactual search, of the inversion and of the encoder's training."""
