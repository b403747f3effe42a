"""A procedural road world in which the true cause of every decision is known."""

from blobex.scenes.render import Box, Rendering, cause_mask, render
from blobex.scenes.rules import ACTIONS, REASONS, Cause, actions, biased_actions, causes, reasons, remove
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene, Thing

__all__ = [
    "ACTIONS",
    "REASONS",
    "Box",
    "Cause",
    "Rendering",
    "Scene",
    "Thing",
    "actions",
    "biased_actions",
    "cause_mask",
    "causes",
    "reasons",
    "remove",
    "render",
    "sample",
]
