"""Per-row Adam and batching of independent problems, shared by the inversion and the counterfactual search."""
