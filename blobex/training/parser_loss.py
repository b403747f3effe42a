"""Targets and losses of the parser."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.networks.parser import STRIDE, ParserOutput
from blobex.scenes.labels import DETECTION, UNKNOWN

SHIFT_WEIGHT = 0.1  # shifts are in pixels and far larger than the other losses
ALPHA, BETA = 2.0, 4.0  # exponents of the focal loss
MIN_SHARE = 1e-4  # of pixels: rarer categories weigh no more
TOLERANCE = 0.176  # a box moved by this share of its side overlaps itself with IoU 0.7


@dataclass(frozen=True)
class BoxTargets:
    """Boxes of N images on the grid of h by w cells."""

    heat: Tensor  # N,10,h,w: 1 in the cell of a centre, falling off around it
    image: Tensor  # B: index of the image of each box
    row: Tensor  # B: the cell of its centre
    column: Tensor  # B
    offset: Tensor  # B,2: x and y of the centre within the cell
    size: Tensor  # B,2: logarithm of width and height in pixels


def box_targets(boxes: Tensor, height: int, width: int) -> BoxTargets:
    """Return the targets of boxes (N,M,5), as in `DetectionSet`, in images of height x width pixels.

    The heat decreases as a Gaussian whose width tolerates boxes that still overlap well (Law and Deng, ECCV 2018,
    section 3.2), here for each side separately.
    """
    rows, columns = height // STRIDE, width // STRIDE
    image, entry = (boxes[:, :, 0] >= 0).nonzero(as_tuple=True)
    category, corners = boxes[image, entry, 0].long(), boxes[image, entry, 1:]
    centre, size = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    column = (centre[:, 0] / STRIDE).long().clamp(0, columns - 1)
    row = (centre[:, 1] / STRIDE).long().clamp(0, rows - 1)
    spread = TOLERANCE * size / STRIDE / 3 + 1 / 6
    across = (torch.arange(columns, device=boxes.device) - column[:, None]) / spread[:, :1]
    down = (torch.arange(rows, device=boxes.device) - row[:, None]) / spread[:, 1:]
    bumps = torch.exp(-(across[:, None, :].square() + down[:, :, None].square()) / 2)
    heat = torch.zeros(len(boxes) * len(DETECTION), rows, columns, device=boxes.device)
    index = (image * len(DETECTION) + category)[:, None, None].expand_as(bumps)
    heat = heat.scatter_reduce(0, index, bumps, "amax").view(len(boxes), len(DETECTION), rows, columns)
    return BoxTargets(heat, image, row, column, centre / STRIDE - torch.stack([column, row], dim=1), size.log())


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """Return the focal loss of heat maps with peaks of 1, per peak (Zhou et al., 2019, equation 1)."""
    peak = heat == 1
    positive = F.logsigmoid(logits) * torch.sigmoid(-logits) ** ALPHA
    negative = F.logsigmoid(-logits) * torch.sigmoid(logits) ** ALPHA * (1 - heat) ** BETA
    return -torch.where(peak, positive, negative).sum() / peak.sum().clamp(min=1)


def detection_losses(output: ParserOutput, boxes: Tensor, drivable: Tensor) -> dict[str, Tensor]:
    """Return the losses of images with boxes (N,M,5) and drivable masks (N,H,W), by name."""
    targets = box_targets(boxes, drivable.shape[1], drivable.shape[2])
    offset, size = (maps[targets.image, :, targets.row, targets.column] for maps in (output.offset, output.size))
    count = max(len(targets.image), 1)
    return {
        "heat_loss": focal_loss(output.heat, targets.heat),
        "offset_loss": (offset - targets.offset).abs().sum() / count,
        "size_loss": (size - targets.size).abs().sum() / count,
        "drivable_loss": _cross_entropy(output.drivable, drivable),
    }


def segmentation_losses(output: ParserOutput, semantic: Tensor, things: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return the losses of images with semantic masks and thing numbers (N,H,W) uint8; see `category_weights`."""
    heat, shifts = thing_targets(things)
    # The minimum of the weighted loss multiplies each category's probability by its weight. With the logarithms added
    # here, the logits stay those of the unweighted probabilities (compare Menon et al., ICLR 2021).
    shift = torch.where(weights > 0, weights, 1).log()
    inside = (things > 0)[:, None]
    return {
        "semantic_loss": _cross_entropy(output.semantic + shift[:, None, None], semantic, weights),
        "centre_loss": focal_loss(output.centres, heat),
        "shift_loss": SHIFT_WEIGHT * ((output.shifts - shifts).abs() * inside).sum() / inside.sum().clamp(min=1),
    }


def thing_targets(things: Tensor) -> tuple[Tensor, Tensor]:
    """Return heat (N,1,H,W) of centroids, and shifts (N,2,H,W) to them in pixels, of things (N,H,W), 0 for stuff.

    Cheng et al., CVPR 2020, section 3.2. The heat's width is a pixel per 64 rows.
    """
    count, height, width = things.shape
    numbers = int(things.max()) + 1
    index = (things.long() + numbers * torch.arange(count, device=things.device)[:, None, None]).flatten()
    y, x = torch.meshgrid(
        torch.arange(height, device=things.device), torch.arange(width, device=things.device), indexing="ij"
    )
    grid = torch.stack([x, y]).float()
    sums = torch.zeros(count * numbers, 2, device=things.device)
    sums.index_add_(0, index, grid.flatten(1).T.repeat(count, 1))
    sizes = torch.bincount(index, minlength=count * numbers)
    centroids = sums / sizes.clamp(min=1)[:, None]
    shifts = centroids[index].view(count, height, width, 2).permute(0, 3, 1, 2) - grid
    heat = torch.zeros(count, height, width, device=things.device)
    spread = max(1.0, height / 64)
    for number in range(1, numbers):  # one thing per image at a time bounds the memory
        centre = centroids[number::numbers].round()
        distance = (grid[0] - centre[:, :1, None]).square() + (grid[1] - centre[:, 1:, None]).square()
        present = (sizes[number::numbers] > 0)[:, None, None]
        heat = heat.maximum(torch.exp(-distance / (2 * spread**2)) * present)
    return heat[:, None], shifts


def category_weights(semantic: Tensor, categories: int) -> Tensor:
    """Return weights (categories,) inverse to the root of the category's share, with mean 1 over all known pixels.

    Without them small things hardly count beside road and sky. A category that does not occur has weight 0.
    """
    counts = torch.bincount(semantic.flatten(), minlength=UNKNOWN + 1)[:categories].double()
    share = counts / counts.sum().clamp(min=1)
    weights = torch.where(share > 0, share.clamp(min=MIN_SHARE).rsqrt(), 0)
    return (weights / (weights * share).sum()).float()


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the pixels of known label."""
    total = F.cross_entropy(logits, labels.long(), weights, ignore_index=UNKNOWN, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp(min=1)
