"""How fast everything runs, measured by hand and never by a test."""
