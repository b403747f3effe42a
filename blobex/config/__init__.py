"""What params.yaml may say: frozen dataclasses, a section each, and their strict reader."""
