"""Pictures of results, drawn from arrays and files."""
