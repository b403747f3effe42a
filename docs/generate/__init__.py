"""Pages of the reference, generated from the code that they describe."""
