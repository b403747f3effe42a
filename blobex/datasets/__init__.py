"""Pictures and labels from files."""
