"""Measures of images, features and explanations: pure functions, and accumulators where images come in batches."""
