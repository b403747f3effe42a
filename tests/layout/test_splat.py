"""Score maps against the definition: a covariance matrix per blob, inverted by torch, composited point by point."""

import pytest
import torch
import torch.nn.functional as F
from worlds.tiny_networks import random_layout

from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import Canvas, half_axes, score_pyramid, splat, splat_by_solver

SIZES = [(16, 16), (16, 32), (8, 32)]


def covariance(covs: torch.Tensor) -> torch.Tensor:
    """Return the 2x2 covariances of the blobs, as the BlobGAN paper defines them."""
    ab = covs[..., :2].sigmoid()
    ab = ab * 0.02 / ab.prod(-1, keepdim=True).sqrt()
    u = covs[..., 2:] / covs[..., 2:].norm(dim=-1, keepdim=True)
    v = torch.stack([-u[..., 1], u[..., 0]], dim=-1)
    outer = [ab[..., i, None, None] * axis[..., :, None] * axis[..., None, :] for i, axis in enumerate((u, v))]
    return outer[0] + outer[1] + 1e-5 * torch.eye(2, dtype=covs.dtype)


def reference(layout: BlobLayout, height: int, width: int) -> torch.Tensor:
    """Compute score maps point by point and blob by blob; lengths are in image heights."""
    inverse = torch.linalg.inv(covariance(layout.covs))
    scores = torch.zeros(len(layout), layout.blobs + 1, height, width, dtype=torch.float64)
    centres = torch.stack([layout.xs * (width / height), layout.ys], dim=-1)
    for row in range(height):
        for column in range(width):
            point = torch.tensor([column / height, row / height], dtype=torch.float64)
            d = point - centres
            distance = torch.einsum("nki,nkij,nkj->nk", d, inverse, d)
            opacity = torch.sigmoid(layout.sizes[:, 1:] - distance)
            left = torch.ones(len(layout), dtype=torch.float64)  # transmittance of the blobs in front
            for k in reversed(range(layout.blobs)):
                scores[:, k + 1, row, column] = left * opacity[:, k]
                left = left * (1 - opacity[:, k])
            scores[:, 0, row, column] = left
    return scores


@pytest.fixture(scope="module")
def layout():
    return random_layout(2, 5, 3)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_against_the_definition(layout, height, width):
    expected = reference(layout, height, width)
    torch.testing.assert_close(splat(layout, height, width), expected, rtol=0, atol=1e-8)
    single = splat(layout.map(torch.Tensor.float), height, width)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-4)


def test_half_axes_are_the_eigenvalues(layout):
    values = torch.linalg.eigvalsh(covariance(layout.covs))
    ours = torch.stack(half_axes(layout.covs), dim=-1).sort(dim=-1).values
    torch.testing.assert_close(ours, values)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_scores_of_a_point_sum_to_one(height, width):
    """Also for blobs that cover everything, nothing, or are thin as a line."""
    for scale in (1.0, 5.0, 20.0):
        crowd = random_layout(3, 40, 2, dtype=torch.float32)
        crowd = crowd.replace({"sizes": scale * crowd.sizes, "covs": scale * crowd.covs})
        scores = splat(crowd, height, width)
        assert scores.isfinite().all() and scores.min() >= 0 and scores.max() <= 1 + 1e-5
        torch.testing.assert_close(scores.sum(1), torch.ones(3, height, width), rtol=0, atol=1e-4)


def full(*sizes: float) -> BlobLayout:
    """Blobs in the middle of the image with these size logits."""
    layout = random_layout(1, len(sizes), 2)
    middle = torch.full_like(layout.xs, 0.5)
    return layout.replace({"xs": middle, "ys": middle, "sizes": torch.tensor([[99.0, *sizes]], dtype=torch.float64)})


def test_background_is_first_and_fills_an_empty_image():
    scores = splat(full(-40, -40), 8, 8)
    assert (scores[:, 0] > 1 - 1e-12).all() and (scores[:, 1:] < 1e-12).all()


def test_higher_blob_stands_in_front():
    centre = splat(full(30, 30), 8, 8)[0, :, 4, 4]
    torch.testing.assert_close(centre, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), rtol=0, atol=1e-9)
    behind = splat(full(30, -30), 8, 8)[0, :, 4, 4]
    torch.testing.assert_close(behind, torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-9)


def test_two_half_opaque_blobs_by_hand():
    """Opacity 1/2 each: the front one takes 1/2, the one behind 1/4, the background 1/4."""
    centre = splat(full(0, 0), 8, 8)[0, :, 4, 4]
    torch.testing.assert_close(centre, torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("height", "width", "row", "column"), [(16, 16, 3, 7), (16, 32, 3, 21), (8, 8, 0, 0)])
def test_grid_point_i_is_at_i_over_s(height, width, row, column):
    """A blob peaks at its centre, at the sigmoid of its size."""
    layout = full(1.5)
    centre = {"xs": layout.xs * 0 + column / width, "ys": layout.ys * 0 + row / height}
    score = splat(layout.replace(centre), height, width)[0, 1]
    assert divmod(score.argmax().item(), width) == (row, column)
    assert score.max().item() == pytest.approx(torch.sigmoid(torch.tensor(1.5)).item(), abs=1e-7)


def test_blob_k_is_entry_k_plus_one(layout):
    """Raising size k+1 raises score k+1 at the centre of blob k, and no other blob's."""
    base = splat(layout, 16, 16)
    for k in range(layout.blobs):
        sizes = layout.sizes.clone()
        sizes[:, k + 1] += 1
        change = splat(layout.replace({"sizes": sizes}), 16, 16) - base
        assert (change[:, k + 1] >= 0).all() and change[:, k + 1].max() > 0.01
        others = torch.cat([change[:, : k + 1], change[:, k + 2 :]], dim=1)
        assert (others <= 1e-8).all()
        assert torch.equal(change[:, k + 2 :], torch.zeros_like(change[:, k + 2 :]))


def test_size_of_the_background_is_never_read(layout):
    sizes = layout.sizes.clone()
    sizes[:, 0] = float("nan")
    assert torch.equal(splat(layout.replace({"sizes": sizes}), 16, 16), splat(layout, 16, 16))


def test_opposite_directions_are_the_same_ellipse(layout):
    """Also at half a turn: a direction has no sign."""
    covs = torch.cat([layout.covs[..., :2], -layout.covs[..., 2:]], dim=-1)
    torch.testing.assert_close(splat(layout.replace({"covs": covs}), 16, 16), splat(layout, 16, 16))


def test_mirrored_blobs_make_a_mirrored_image(layout):
    """x -> 1 - x turns point i into point S - i."""
    covs = layout.covs * torch.tensor([1.0, 1, -1, 1], dtype=torch.float64)
    mirrored = splat(layout.replace({"xs": 1 - layout.xs, "covs": covs}), 16, 16)
    torch.testing.assert_close(mirrored[..., 1:], splat(layout, 16, 16)[..., 1:].flip(3))


def test_wide_image_keeps_the_shape_of_blobs():
    """A blob covers the same pixels around its centre on a wide canvas as on a square one."""
    layout = full(2.0)
    square, wide = splat(layout, 16, 16), splat(layout, 16, 32)
    torch.testing.assert_close(wide[..., 8:24], square)


@pytest.mark.parametrize("aspect_ratio", [1, 2, 3])
def test_legacy_is_the_square_stretched_by_nearest(layout, aspect_ratio):
    square = score_pyramid(layout, Canvas(16, 1), smallest=4)
    legacy = score_pyramid(layout, Canvas(16, aspect_ratio, legacy=True), smallest=4)
    assert list(legacy) == [16, 8, 4]
    for height, scores in legacy.items():
        stretched = F.interpolate(square[height], size=(height, aspect_ratio * height), mode="nearest")
        assert torch.equal(scores, stretched)


@pytest.mark.parametrize(("aspect_ratio", "legacy"), [(1, False), (2, False), (2, True)])
def test_pyramid_is_averaged_down_by_halving(layout, aspect_ratio, legacy):
    levels = score_pyramid(layout, Canvas(32, aspect_ratio, legacy), smallest=4)
    assert list(levels) == [32, 16, 8, 4]
    finest = levels[32]
    for height, scores in levels.items():
        assert scores.shape == (2, 6, height, height * aspect_ratio) and scores.is_contiguous()
        if not legacy:
            side = 32 // height
            blocks = finest.reshape(2, 6, height, side, height * aspect_ratio, side)
            torch.testing.assert_close(scores, blocks.mean((3, 5)))
        torch.testing.assert_close(scores.sum(1), torch.ones_like(scores[:, 0]))


def test_gradient():
    layout = random_layout(1, 3, 2)
    tensors = [getattr(layout, key).requires_grad_() for key in ("xs", "ys", "covs", "sizes")]

    def scores(xs, ys, covs, sizes):
        return splat(layout.replace({"xs": xs, "ys": ys, "covs": covs, "sizes": sizes}), 4, 8)

    assert torch.autograd.gradcheck(scores, tensors)


def test_gradients_of_extreme_blobs_are_finite():
    layout = random_layout(2, 8, 2, dtype=torch.float32)
    extreme = {"covs": 30 * layout.covs, "sizes": 50 * layout.sizes, "xs": 5 * layout.xs - 2}
    extreme = {key: tensor.requires_grad_() for key, tensor in extreme.items()}
    gradients = torch.autograd.grad(splat(layout.replace(extreme), 16, 32).square().sum(), list(extreme.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_one_image_does_not_depend_on_the_others(layout):
    torch.testing.assert_close(splat(layout[1:2], 16, 32), splat(layout, 16, 32)[1:2])


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 32), (8, 32)])
def test_solver_equals_the_closed_form(height: int, width: int) -> None:
    layout = random_layout(3, 5, 2)
    leaves = {key: [tensor.clone().requires_grad_() for _ in range(2)] for key, tensor in layout.items()}
    maps = [
        function(BlobLayout(**{key: both[number] for key, both in leaves.items()}), height, width)
        for number, function in enumerate((splat, splat_by_solver))
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(maps[1].sum(1), torch.ones(3, height, width, dtype=torch.float64))
    weight = torch.rand(maps[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for number in range(2):
        (maps[number] * weight).sum().backward()
    for key in ("xs", "ys", "covs", "sizes"):
        torch.testing.assert_close(leaves[key][0].grad, leaves[key][1].grad, rtol=1e-8, atol=1e-10)
