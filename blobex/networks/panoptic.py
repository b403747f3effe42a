"""Panoptic maps of photographs, by a network of the package transformers that lies in a local folder."""

from __future__ import annotations

import inspect
import json
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_uint8
from blobex.networks.external import FILES
from blobex.networks.parser import FIRST_THING
from blobex.scenes.labels import SEMANTIC, UNKNOWN

# Kinds of network that need nothing but pictures.
KINDS = ("detr", "eomt", "eomt_dinov3", "mask2former", "maskformer")

# Names in COCO's panoptic categories to ours; Cityscapes has the very names of SEMANTIC.
SYNONYMS: Mapping[str, str] = {
    "pavement-merged": "sidewalk",
    "building-other-merged": "building",
    "house": "building",
    "roof": "building",
    "wall-brick": "wall",
    "wall-stone": "wall",
    "wall-other-merged": "wall",
    "fence-merged": "fence",
    "stop sign": "traffic sign",
    "tree-merged": "vegetation",
    "flower": "vegetation",
    "grass-merged": "terrain",
    "dirt-merged": "terrain",
    "gravel": "terrain",
    "sand": "terrain",
    "sky-other-merged": "sky",
}


class PanopticNetwork:
    """Pictures (N,3,H,W) in [-1,1] to a category and a thing number for each pixel, both (N,H,W) uint8 on the CPU.

    Categories are those of `scenes.labels.SEMANTIC`, 255 where the network says nothing or something without a
    counterpart there. Things are numbered from 1 in each picture; stuff has the number 0.

    `network` and `processor` are a universal segmentation network of transformers and its image processor.
    """

    def __init__(self, network: Any, processor: Any) -> None:
        self.network, self.processor = network, processor
        self.categories = {label: category_of(name) for label, name in network.config.id2label.items()}

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        count, _, height, width = pictures.shape
        inputs = self.processor(images=list(to_uint8(pictures).cpu()), return_tensors="pt").to(self.network.device)
        decode = self.processor.post_process_panoptic_segmentation
        # Parts of stuff may stay apart, as all take the same category; most processors want that said.
        fusing = "label_ids_to_fuse" in inspect.signature(decode).parameters
        options: dict[str, Any] = {"label_ids_to_fuse": set()} if fusing else {}
        results = decode(self.network(**inputs), target_sizes=[(height, width)] * count, **options)
        semantic = torch.full((count, height, width), UNKNOWN, dtype=torch.uint8)
        things = torch.zeros(count, height, width, dtype=torch.uint8)
        for index, result in enumerate(results):
            segments = result["segmentation"].cpu()
            for segment in result["segments_info"]:
                inside, category = segments == segment["id"], self.categories[segment["label_id"]]
                semantic[index][inside] = category
                if FIRST_THING <= category < UNKNOWN:
                    things[index][inside] = int(things[index].max()) + 1
        return semantic, things


def category_of(name: str) -> int:
    """The number in `scenes.labels.SEMANTIC` of a Cityscapes or COCO category; 255 if it has no counterpart there."""
    name = SYNONYMS.get(name.lower(), name.lower())
    return SEMANTIC.index(name) if name in SEMANTIC else UNKNOWN


def load_panoptic(folder: Path, device: torch.device | str = "cpu") -> PanopticNetwork:
    """The network in a folder, frozen; the folder is as `save_pretrained` of the package transformers writes it.

    Nothing is downloaded and no code from the folder runs. BlobexError if a file is missing or damaged, or if the
    network is of another kind or knows none of our categories.
    """
    _check_kind(folder)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, when transformers is first imported
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation  # takes seconds

    content = FILES["panoptic"].content
    try:
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network, report = AutoModelForUniversalSegmentation.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises many kinds; each means that the folder is not as it writes it
        reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
        raise BlobexError(f"{folder} is damaged or incomplete ({reason}): put {content} there again") from error
    if report["missing_keys"] & dict(network.named_parameters()).keys():  # those would stay random
        raise BlobexError(f"the weights in {folder} do not fit their config: put {content} there again")
    loaded = PanopticNetwork(network.eval().requires_grad_(False).to(device), processor)
    if set(loaded.categories.values()) == {UNKNOWN}:
        raise BlobexError(f"the network in {folder} knows no category of the road: put one of Cityscapes or COCO there")
    return loaded


def _check_kind(folder: Path) -> None:
    for part in FILES["panoptic"].parts:
        if not (folder / part).is_file():
            raise BlobexError(f"{part} is missing: put {FILES['panoptic'].content} at {folder}")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BlobexError(
            f"{folder / 'config.json'} is damaged: put {FILES['panoptic'].content} there again"
        ) from error
    if kind not in KINDS:
        raise BlobexError(f"{folder} holds a network of kind {kind!r}: put one of {', '.join(KINDS)} there")
