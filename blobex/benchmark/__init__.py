"""The speed benchmark: cost of explanations beside the published search, and rates of training. Run by `make bench`."""
