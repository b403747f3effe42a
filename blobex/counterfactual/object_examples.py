"""Objects and surfaces of example images, which the blobs of a layout form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.layout.blobs import BlobLayout

GROUND = ("road", "verge", "side_lane", "lane")  # groups that form one object: lanes make no sense without a road
SIGNAL = ("pole", "sign", "light")  # groups that form one object: signs and lights stand on poles
SCENERY = (*GROUND, "building", "vegetation")  # groups whose colours change with daylight and weather


@dataclass(frozen=True)
class ObjectExamples:
    """E real images as layouts of K blobs, and the objects and surfaces that the blobs form."""

    layout: BlobLayout
    present: Tensor  # E,K+1 bool: visible blobs of each image; the background always is
    objects: Tensor  # U,K+1 bool: blobs of each object, the background first; a blob belongs to one object
    surfaces: Tensor  # V,K+1 bool: blobs that change their appearance together; surfaces may overlap
    groups: Tensor  # K+1 int64: number of the group of each blob, which may take each other's objects; -1: background

    def to(self, device: torch.device) -> ObjectExamples:
        return ObjectExamples(*(part.to(device) for part in vars(self).values()))


def objects_of(slots: Mapping[str, int]) -> Tensor:
    """Return the objects (U,K+1) bool of blobs in groups: the background, the ground, signals, every other blob alone.

    >>> objects_of({"road": 1, "lane": 1, "pole": 1, "light": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]
    """
    groups = ["", *(group for group, count in slots.items() for _ in range(count))]
    joined = [[group in kind for group in groups] for kind in (GROUND, SIGNAL)]
    single = [
        [place == blob for place in range(len(groups))]
        for blob, group in enumerate(groups)
        if blob and group not in (*GROUND, *SIGNAL)
    ]
    background = [group == "" for group in groups]
    return torch.tensor([background, *(blobs for blobs in joined if any(blobs)), *single])


def surfaces_of(slots: Mapping[str, int]) -> Tensor:
    """Return the surfaces (V,K+1) bool: the background, each ground group, and all scenery with the background.

    >>> surfaces_of({"road": 2, "lane": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 0]]
    """
    groups = ["background", *(group for group, count in slots.items() for _ in range(count))]
    present_ground = [(group,) for group in GROUND if slots.get(group)]
    surfaces = [("background",), *present_ground, ("background", *SCENERY)]
    return torch.tensor([[group in surface for group in groups] for surface in surfaces])


def groups_of(slots: Mapping[str, int]) -> Tensor:
    """Return the number of the group of the background, -1, and of each blob, (K+1,).

    >>> groups_of({"road": 2, "vehicle": 1}).tolist()
    [-1, 0, 0, 1]
    """
    return torch.tensor([-1, *(number for number, count in enumerate(slots.values()) for _ in range(count))])
