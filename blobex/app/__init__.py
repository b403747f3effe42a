"""Local web page to explain images by hand."""
