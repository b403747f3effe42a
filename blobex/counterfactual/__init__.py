"""The smallest change of the blobs that changes the decision."""
