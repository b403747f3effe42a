"""Perception of images through a parser: objects and their places, regions, and differences in words."""
