"""Inversion: the blob layout whose rendering reproduces an image."""
