"""Maps in the frames of blobs, against the sampling of torch and sums over single points."""

import math

import pytest
import torch
import torch.nn.functional as F
from worlds.tiny_networks import random_layout

from blobex.layout.blobs import BlobLayout
from blobex.layout.frames import half_extents, interpolate_maps, interpolation, pool_maps, splat_maps
from blobex.layout.splat import Canvas, covariance, splat

CANVAS = Canvas(16, 2)
LEAST = 0.02


@pytest.fixture(scope="module")
def layout() -> BlobLayout:
    return random_layout(2, 4, 1)


def maps_of(layout: BlobLayout, grid: int, channels: int = 1) -> torch.Tensor:
    random = torch.Generator().manual_seed(5)
    shape = (len(layout), layout.blobs + 1, grid, grid, channels)
    return torch.randn(shape, generator=random, dtype=torch.float64)


def round_blob(x: float, y: float, size: float = 4.0) -> BlobLayout:
    """One round blob on a canvas of two heights, its centre at (x, y) in image heights."""
    xs, ys = (torch.tensor([[value]], dtype=torch.float64) for value in (x / 2, y))
    covs = torch.tensor([[[0.0, 0.0, 1.0, 0.0]]], dtype=torch.float64)
    empty = torch.zeros(1, 2, 0, dtype=torch.float64)
    return BlobLayout(xs, ys, covs, torch.tensor([[0.0, size]], dtype=torch.float64), empty, empty)


def boxes(layout: BlobLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Return centres and half the sides (N,K+1,2) of the frames: the diagonal of a covariance bounds its ellipse."""
    diagonal = covariance(layout.covs).diagonal(dim1=-2, dim2=-1)
    sides = (layout.sizes[:, 1:, None].clamp(min=1) * diagonal).sqrt()
    image = torch.tensor([1.0, 0.5], dtype=torch.float64).expand(len(layout), 1, 2)
    centres = torch.stack([2 * layout.xs, layout.ys], dim=-1)
    return torch.cat([image, centres], 1), torch.cat([image, sides], 1)


def test_frames_bound_the_ellipses(layout: BlobLayout) -> None:
    """The farthest points in which the opacity is 1/2, found by walking around the ellipse."""
    axes, vectors = torch.linalg.eigh(covariance(layout.covs))
    angles = torch.linspace(0, 2 * math.pi, 2001, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()])
    ellipse = vectors @ (axes.sqrt()[..., None] * circle) * layout.sizes[:, 1:, None, None].clamp(min=1).sqrt()
    widths, heights = half_extents(layout, area=0.02)
    torch.testing.assert_close(torch.stack([widths, heights], -1), ellipse.amax(-1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("grid", [2, 3, 6])
@pytest.mark.parametrize("height", [8, 16])
def test_interpolation_is_that_of_torch(layout: BlobLayout, grid: int, height: int) -> None:
    maps = maps_of(layout, grid)
    centres, sides = boxes(layout)
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(2 * height) / height, indexing="ij")
    points = torch.stack([x, y], -1).double()
    relative = (points - centres[:, :, None, None]) / sides[:, :, None, None]
    expected = F.grid_sample(
        maps.flatten(0, 1).permute(0, 3, 1, 2), relative.flatten(0, 1), "bilinear", "border", align_corners=True
    )
    found = interpolate_maps(maps[..., 0], interpolation(layout, CANVAS, height, grid))
    torch.testing.assert_close(found, expected.view_as(found), rtol=0, atol=1e-9)


def test_constant_maps_are_weighted_sums(layout: BlobLayout) -> None:
    scores = splat(layout, 16, 32)
    colours = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps = colours[:, :, None, None].expand(-1, -1, 4, 4, -1)
    expected = torch.einsum("nkhw,nkc->nchw", scores, colours)
    torch.testing.assert_close(splat_maps(maps, scores, interpolation(layout, CANVAS, 16, 4)), expected)


def test_splatted_maps_are_the_weighted_sum_of_interpolated_ones(layout: BlobLayout) -> None:
    maps, scores, weights = maps_of(layout, 5, 3), splat(layout, 16, 32), interpolation(layout, CANVAS, 16, 5)
    expected = torch.stack(
        [(scores * interpolate_maps(maps[..., channel], weights)).sum(1) for channel in range(3)], dim=1
    )
    torch.testing.assert_close(splat_maps(maps, scores, weights), expected)


def test_no_rows_have_no_maps(layout: BlobLayout) -> None:
    none, maps = layout[:0], maps_of(layout, 5, 3)[:0]
    assert splat_maps(maps, splat(none, 16, 32), interpolation(none, CANVAS, 16, 5)).shape == (0, 3, 16, 32)


def test_pooled_constant_is_the_constant_times_the_mass(layout: BlobLayout) -> None:
    scores, weights = splat(layout, 16, 32), interpolation(layout, CANVAS, 16, 3)
    colour = torch.tensor([0.3, -2.0], dtype=torch.float64)
    pooled = pool_maps(colour.view(1, 2, 1, 1).expand(2, -1, 16, 32), scores, weights, LEAST)
    assert pooled.shape == (2, 5, 3, 3, 3)
    torch.testing.assert_close(pooled[..., :2], pooled[..., 2:] * colour)
    mass = torch.einsum("nkhw,nkih,nkjw->nkij", scores, weights.rows, weights.columns)
    torch.testing.assert_close(pooled[..., 2], mass / (mass + LEAST))
    torch.testing.assert_close(mass.sum((2, 3)), scores.sum((2, 3)))  # every point is shared out in full


def test_pooling_is_the_transpose_of_splatting(layout: BlobLayout) -> None:
    """Before the division by its mass: <splat(maps), image> = <maps, pool(image)>."""
    scores, weights, maps = splat(layout, 16, 32), interpolation(layout, CANVAS, 16, 4), maps_of(layout, 4, 2)
    image = torch.randn(2, 2, 16, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pooled = pool_maps(image, scores, weights, LEAST)
    mass = LEAST * pooled[..., 2:] / (1 - pooled[..., 2:])
    sums = pooled[..., :2] * (mass + LEAST)
    torch.testing.assert_close((splat_maps(maps, scores, weights) * image).sum(), (maps * sums).sum())


@pytest.mark.parametrize(("down", "right"), [(2, 0), (0, 3), (-3, 5)])
def test_a_texture_moves_with_its_blob(down: int, right: int) -> None:
    maps = maps_of(round_blob(1, 0.5), 4, 3)
    maps[:, 0] = 0  # of the background, which stays

    def texture(x: float, y: float) -> torch.Tensor:
        layout = round_blob(x, y)
        return splat_maps(maps, splat(layout, 16, 32), interpolation(layout, CANVAS, 16, 4))

    moved = texture(1 + right / 16, 0.5 + down / 16)
    inner = F.pad(texture(1, 0.5), (5, 5, 3, 3))[:, :, 3 - down : 19 - down, 5 - right : 37 - right]
    valid = F.pad(torch.ones(16, 32), (5, 5, 3, 3))[3 - down : 19 - down, 5 - right : 37 - right] > 0
    assert inner.abs().max() > 0.5
    torch.testing.assert_close(moved[..., valid], inner[..., valid], rtol=0, atol=1e-9)


def test_a_map_grows_with_its_blob_and_is_upright() -> None:
    """The first point is at the upper left corner of the frame, however large; sizes below 1 keep a frame."""
    maps = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    maps[:, 1, 0, 0] = 1.0
    for size, side in ((4.0, 2 * 0.02001**0.5), (1.0, 0.02001**0.5), (-30.0, 0.02001**0.5)):
        found = interpolate_maps(maps, interpolation(round_blob(1.0, 0.5, size), CANVAS, 16, 2))[0, 1]
        relative = torch.tensor(2 / 16 / side, dtype=torch.float64).clamp(max=1)
        torch.testing.assert_close(found[6, 16], (1 + relative) / 4)  # two points above the centre
        torch.testing.assert_close(found[8, 14], (1 + relative) / 4)
        assert found[0, 0] == 1 and found[-1, -1] == 0


def test_gradients_are_those_of_differences(layout: BlobLayout) -> None:
    maps = maps_of(layout, 3, 2).requires_grad_()

    def textures(xs: torch.Tensor, sizes: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        moved = layout.replace({"xs": xs, "sizes": sizes})
        return splat_maps(maps, splat(moved, 4, 8), interpolation(moved, Canvas(4, 2), 4, 3))

    inputs = (layout.xs.clone().requires_grad_(), layout.sizes.clone().requires_grad_(), maps)
    assert torch.autograd.gradcheck(textures, inputs, fast_mode=True)
