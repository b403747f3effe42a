"""Synthetic road world: random scenes, their images, labels and the causes of decisions (numpy only)."""
