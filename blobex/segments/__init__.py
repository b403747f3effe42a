"""A picture's segments, as the parser tells them, become blobs: each segment one blob, of its place, size and shape."""
