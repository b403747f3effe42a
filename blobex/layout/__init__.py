"""Blob layouts: the record, rendering to score maps, the vector form, and blobs from segments."""
