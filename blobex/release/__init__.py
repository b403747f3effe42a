"""Checkpoints promoted: a folder that explains by itself, its card, and its version in MLflow."""
