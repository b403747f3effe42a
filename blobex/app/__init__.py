"""The local page: explain pictures by hand."""
