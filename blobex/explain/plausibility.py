"""What the search asks about a change: how usual its appearances are, and whether a sentence can name it."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.counterfactual.object_examples import groups_of
from blobex.datasets.images import to_float, to_uint8
from blobex.networks.code_density import CodeDensity
from blobex.networks.parser import Parser, ParserOutput
from blobex.optim.batching import float32_batch_size, in_batches
from blobex.optim.network_callables import Excess, Nameable
from blobex.perception.objects import read_scenes
from blobex.perception.segment_reader import SegmentReader
from blobex.perception.sentences import differences


def appearance_excess(encoder: nn.Module, device: torch.device) -> Excess | None:
    """Return the excess of appearances over those of the example images that are stored with a segment encoder."""
    if not isinstance(encoder, SegmentReader):
        return None
    stored, slots = encoder.examples, encoder.slots

    @cache  # fitted when a search first asks
    def density() -> CodeDensity:
        present = F.pad(stored.present, (1, 0), value=True)
        return CodeDensity.fit(stored.codes.float(), present, groups_of(slots).tolist()).to(device)

    return lambda layout: density().excess(torch.cat([layout.features, layout.spatial_style], dim=2))


def sees_change(parser: Parser) -> Nameable:
    """Return whether the parser sees a difference between images before and after, which a sentence can name."""

    def nameable(before: Tensor, after: Tensor) -> Tensor:
        queries, row = before.unique(dim=0, return_inverse=True)  # many changes of one query are one reading of it
        images = to_uint8(torch.cat([queries, after]))
        rows = float32_batch_size(len(images), images.device)
        with torch.no_grad():
            seen = in_batches(lambda part: vars(parser(to_float(part))), rows, images)
        readings = read_scenes(ParserOutput(**seen).to("cpu"), images.cpu())
        pairs = zip([readings[number] for number in row.tolist()], readings[len(queries) :], strict=True)
        return torch.tensor([bool(differences(*pair)) for pair in pairs])

    return nameable
