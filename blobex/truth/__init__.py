"""The truth benchmark: explanations of synthetic scenes are compared with the known causes of the decisions."""
