"""Interventions on images in a folder, image by image, so that a stopped run continues."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.core.code_state import code_digest
from blobex.core.files import read_json, whole_folder, write_text
from blobex.datasets.images import load_image, write_png
from blobex.explain.explainer import Explainer
from blobex.explain.interventions import Intervention, interventions
from blobex.explain.record_files import DAMAGES, safe_name
from blobex.explain.request import Request

CHANGES = "changes.json"


def stored_interventions(
    explainer: Explainer, names: Sequence[str], queries: Tensor, folder: Path
) -> list[list[Intervention]]:
    """Return the interventions on N images (N,3,H,W) in [-1,1], read from `folder` or made and written there.

    Each image has a folder of its own, with a PNG for each phrase. Raises BlobexError as `interventions`.
    """
    plan = explainer.plan(Request(explainer.decision.outputs[:1]))
    settings = json.dumps([explainer.settings(plan), code_digest(Path(__file__))], sort_keys=True)
    places = [folder / f"{number:04d}_{safe_name(Path(name).stem)}" for number, name in enumerate(names)]
    digests = [hashlib.sha256(settings.encode() + query.cpu().numpy().tobytes()).hexdigest() for query in queries]
    found: list[list[Intervention] | None] = [_read(*place) for place in zip(places, digests, strict=True)]
    missing = [number for number, own in enumerate(found) if own is None]
    made = interventions(explainer, queries[torch.tensor(missing, dtype=torch.long)]) if missing else iter(())
    for number in tqdm(missing, desc="interventions", unit="image", leave=False, disable=None):
        found[number] = own = next(made)
        with whole_folder(places[number]) as new:
            for place, each in enumerate(own):
                write_png(new / f"{place:02d}.png", each.image)
            content = {"digest": digests[number], "phrases": [each.phrase for each in own]}
            write_text(new / CHANGES, json.dumps(content, indent=2) + "\n")
    return [own for own in found if own is not None]


def _read(folder: Path, digest: str) -> list[Intervention] | None:
    """Read the interventions on one image; None if there are none, or those of another image, model or code."""
    with suppress(*DAMAGES):
        content = read_json(folder / CHANGES)
        if content["digest"] == digest:
            phrases = enumerate(content["phrases"])
            return [Intervention(phrase, load_image(folder / f"{place:02d}.png")) for place, phrase in phrases]
    return None
