"""Images and labels from files."""
