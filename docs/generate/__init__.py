"""The pages of the reference, each read off what it describes, so that none can fall behind."""
