"""From a picture to its blobs."""
