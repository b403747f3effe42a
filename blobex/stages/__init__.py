"""DVC's stages, one module each: load, call, write."""
