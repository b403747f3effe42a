"""Experiment tracking with MLflow, versions of code and data from git and DVC, and storage of artifacts on S3."""
