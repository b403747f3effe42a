"""Errors, files written whole or not at all, processes, devices and precisions."""
