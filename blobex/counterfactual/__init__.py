"""Counterfactual search: the smallest change of the blobs that changes the decision."""
