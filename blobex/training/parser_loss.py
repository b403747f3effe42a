"""What the parser learns from: targets made from boxes and masks, and their losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.networks.parser import STRIDE, ParserOutput
from blobex.scenes.labels import DETECTION, UNKNOWN

SHIFT_WEIGHT = 0.1  # shifts are in pixels and far larger than the other losses
FOCUS, RELIEF = 2.0, 4.0  # alpha and beta of the focal loss
RAREST = 1e-4  # share of pixels below which categories weigh no more
TOLERANCE = 0.176  # a box moved by this share of its side overlaps its old place with IoU 0.7


@dataclass(frozen=True)
class BoxTargets:
    """The boxes of N pictures on the grid of cells, h by w."""

    heat: Tensor  # N,10,h,w: 1 in the cell of a centre, falling off around it
    picture: Tensor  # B: the picture of each box
    row: Tensor  # B: the cell of its centre
    column: Tensor  # B
    offset: Tensor  # B,2: x and y of the centre within the cell
    size: Tensor  # B,2: logarithm of width and height in pixels


def box_targets(boxes: Tensor, height: int, width: int) -> BoxTargets:
    """Targets of boxes (N,M,5) as `datamodule.box_rows` makes them, in pictures of height x width pixels.

    The heat falls off as a Gaussian whose spread lets boxes through that still overlap well (Law and Deng, ECCV 2018,
    section 3.2), here along each side by itself.
    """
    rows, columns = height // STRIDE, width // STRIDE
    picture, place = (boxes[:, :, 0] >= 0).nonzero(as_tuple=True)
    category, corners = boxes[picture, place, 0].long(), boxes[picture, place, 1:]
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    column = (centre[:, 0] / STRIDE).long().clamp(0, columns - 1)
    row = (centre[:, 1] / STRIDE).long().clamp(0, rows - 1)
    spread = TOLERANCE * size / STRIDE / 3 + 1 / 6
    across = (torch.arange(columns, device=boxes.device) - column[:, None]) / spread[:, :1]
    down = (torch.arange(rows, device=boxes.device) - row[:, None]) / spread[:, 1:]
    bumps = torch.exp(-(across[:, None, :].square() + down[:, :, None].square()) / 2)
    heat = torch.zeros(len(boxes) * len(DETECTION), rows, columns, device=boxes.device)
    index = (picture * len(DETECTION) + category)[:, None, None].expand_as(bumps)
    heat = heat.scatter_reduce(0, index, bumps, "amax").view(len(boxes), len(DETECTION), rows, columns)
    return BoxTargets(heat, picture, row, column, centre / STRIDE - torch.stack([column, row], dim=1), size.log())


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Focal loss on a heat map whose peaks are 1, per peak (Zhou et al., 2019, equation 1)."""
    peak = heat == 1
    found = F.logsigmoid(logits) * torch.sigmoid(-logits) ** FOCUS
    empty = F.logsigmoid(-logits) * torch.sigmoid(logits) ** FOCUS * (1 - heat) ** RELIEF
    return -torch.where(peak, found, empty).sum() / peak.sum().clamp(min=1)


def detection_losses(output: ParserOutput, boxes: Tensor, drivable: Tensor) -> dict[str, Tensor]:
    """Losses of pictures with boxes (N,M,5) and drivable masks (N,H,W)."""
    targets = box_targets(boxes, drivable.shape[1], drivable.shape[2])
    offset, size = (maps[targets.picture, :, targets.row, targets.column] for maps in (output.offset, output.size))
    count = max(len(targets.picture), 1)
    return {
        "heat_loss": focal_loss(output.heat, targets.heat),
        "offset_loss": (offset - targets.offset).abs().sum() / count,
        "size_loss": (size - targets.size).abs().sum() / count,
        "drivable_loss": _cross_entropy(output.drivable, drivable),
    }


def segmentation_losses(output: ParserOutput, semantic: Tensor, things: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Losses of pictures with semantic masks and thing numbers, both (N,H,W) uint8, and `category_weights`."""
    heat, shifts = thing_targets(things)
    # What minimises the weighted loss has a category's probability multiplied by its weight. With the logarithm added
    # here, the logits themselves stay those of the plain probabilities (compare Menon et al., ICLR 2021).
    shift = torch.where(weights > 0, weights, 1).log()
    inside = (things > 0)[:, None]
    return {
        "semantic_loss": _cross_entropy(output.semantic + shift[:, None, None], semantic, weights),
        "centre_loss": focal_loss(output.centres, heat),
        "shift_loss": SHIFT_WEIGHT * ((output.shifts - shifts).abs() * inside).sum() / inside.sum().clamp(min=1),
    }


def thing_targets(things: Tensor) -> tuple[Tensor, Tensor]:
    """Heat (N,1,H,W) of the centroids of things and, for their pixels, the shift (N,2,H,W) there, x and y in pixels.

    `things` are numbers (N,H,W) uint8, 0 for stuff (Cheng et al., CVPR 2020, section 3.2). The heat's spread is a
    pixel for every 64 rows.
    """
    count, height, width = things.shape
    slots = int(things.max()) + 1
    index = (things.long() + slots * torch.arange(count, device=things.device)[:, None, None]).flatten()
    y, x = torch.meshgrid(
        torch.arange(height, device=things.device), torch.arange(width, device=things.device), indexing="ij"
    )
    grid = torch.stack([x, y]).float()
    sums = torch.zeros(count * slots, 2, device=things.device)
    sums.index_add_(0, index, grid.flatten(1).T.repeat(count, 1))
    sizes = torch.bincount(index, minlength=count * slots)
    centroids = sums / sizes.clamp(min=1)[:, None]
    shifts = centroids[index].view(count, height, width, 2).permute(0, 3, 1, 2) - grid
    heat = torch.zeros(count, height, width, device=things.device)
    spread = max(1.0, height / 64)
    for slot in range(1, slots):  # one thing of every picture at a time, so that memory does not grow with their number
        centre = centroids[slot::slots].round()
        distance = (grid[0] - centre[:, :1, None]).square() + (grid[1] - centre[:, 1:, None]).square()
        there = (sizes[slot::slots] > 0)[:, None, None]
        heat = heat.maximum(torch.exp(-distance / (2 * spread**2)) * there)
    return heat[:, None], shifts


def category_weights(semantic: Tensor, categories: int) -> Tensor:
    """Weights (categories,) that fall with the root of how often a category occurs; over all known pixels they mean 1.

    Without them small things hardly count beside road and sky. A category that never occurs has weight 0.
    """
    counts = torch.bincount(semantic.flatten(), minlength=UNKNOWN + 1)[:categories].double()
    share = counts / counts.sum().clamp(min=1)
    weights = torch.where(share > 0, share.clamp(min=RAREST).rsqrt(), 0)
    return (weights / (weights * share).sum()).float()


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the pixels whose label is known."""
    total = F.cross_entropy(logits, labels.long(), weights, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp(min=1)
