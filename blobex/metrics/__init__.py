"""Measures: a pure function and a thin accumulator each; they get tensors."""
