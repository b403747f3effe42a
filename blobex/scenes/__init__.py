"""A procedural road world in which the true cause of every decision is known."""
