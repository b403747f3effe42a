"""Hyperparameter sweeps with Optuna: tune settings, compare the best with present and published ones, apply them."""
