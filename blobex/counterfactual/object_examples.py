"""Example images as layouts, and the objects that their blobs form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout

GROUND = ("road", "verge", "side_lane", "lane")  # groups that form one object: lanes make no sense without a road
SCENERY = (*GROUND, "building", "vegetation")  # groups whose colours change with daylight and weather


@dataclass(frozen=True)
class ObjectExamples:
    """E real images as layouts of K blobs, and the objects and surfaces that the blobs form."""

    layout: BlobLayout
    present: Tensor  # E,K+1 bool: visible blobs of each image; the background always is
    objects: Tensor  # U,K+1 bool: blobs of each object, the background first; a blob belongs to one object
    surfaces: Tensor  # V,K+1 bool: blobs that change their appearance together; surfaces may overlap

    def to(self, device: torch.device) -> ObjectExamples:
        masks = (mask.to(device) for mask in (self.present, self.objects, self.surfaces))
        return ObjectExamples(self.layout.to(device), *masks)


def objects_of(slots: Mapping[str, int]) -> Tensor:
    """Return the objects (U,K+1) bool: the background, the ground, and every other blob alone.

    Args:
        slots: Number of blobs of each group, in the order of the blobs.

    >>> objects_of({"road": 1, "lane": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    """
    groups = [group for group, count in slots.items() for _ in range(count)]
    ground = [group in GROUND for group in groups]
    single = torch.eye(len(groups) + 1, dtype=torch.bool)[1:][~torch.tensor(ground)]
    first = torch.tensor([[True, *[False] * len(groups)], [False, *ground]])
    return torch.cat([first[: 1 + any(ground)], single])


def surfaces_of(slots: Mapping[str, int]) -> Tensor:
    """Return the surfaces (V,K+1) bool: the background, each ground group, and all scenery with the background.

    >>> surfaces_of({"road": 2, "lane": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 0]]
    """
    groups = ["background", *(group for group, count in slots.items() for _ in range(count))]
    present_ground = [(group,) for group in GROUND if slots.get(group)]
    surfaces = [("background",), *present_ground, ("background", *SCENERY)]
    return torch.tensor([[group in surface for group in groups] for surface in surfaces])
