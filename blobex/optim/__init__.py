"""Optimisation shared by inversion and counterfactual search: row-wise Adam, batching, network types."""
