"""The one error that blobex shows to its users."""


class BlobexError(ValueError):
    """Bad input or a missing file: the message is one sentence that says what is wrong and what to do."""
