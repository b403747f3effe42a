"""Losses, training modules and the training loop of every network, on PyTorch Lightning."""
