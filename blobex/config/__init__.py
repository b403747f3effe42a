"""Parameters of a run: params.yaml as validated dataclasses, its reader, and profiles."""
