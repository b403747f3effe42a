"""The blob language: what a scene is, and how its blobs cover the picture."""
