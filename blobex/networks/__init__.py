"""Networks as torch modules, their files, and the import of published checkpoints."""
