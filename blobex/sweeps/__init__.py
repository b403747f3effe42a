"""Sweeps: studies that tune values which depend on each other. Optuna, and nothing else, stands behind this package."""
