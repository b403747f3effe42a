"""Published splatting by a linear solver against the closed form."""

import pytest
import torch
from worlds.tiny_networks import random_layout

from blobex.layout.blobs import BlobLayout
from blobex.layout.published_splat import splat_by_solver
from blobex.layout.splat import splat


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
