"""DVC stages, one module each: load, call, write."""
