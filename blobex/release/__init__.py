"""Releases: the networks of a setup in a folder that explains by itself, with a model card and an MLflow version."""
