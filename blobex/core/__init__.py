"""Errors, atomic files, processes and ranks, devices and precisions, and the state of the code."""
