"""Object-aware counterfactual explanations of image models."""

__version__ = "0.1.0"
