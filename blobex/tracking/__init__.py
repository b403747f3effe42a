"""Experiment tracking: the only code that talks to MLflow, and to git and DVC about the version of a run."""
