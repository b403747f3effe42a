"""Many independent problems solved side by side, each by its own steps."""
