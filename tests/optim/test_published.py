"""Drawings of blobs, as the published scripts make them at every step."""

import torch
from worlds.tiny_networks import random_layout

from blobex.optim.published import draw_blobs


def test_each_blob_is_drawn_in_its_own_colour() -> None:
    layout = random_layout(2, 3, 2, dtype=torch.float32)
    image = draw_blobs(layout, 8, 16)
    assert image.shape == (2, 3, 8, 16) and (image >= 0).all() and (image <= 1).all()
    assert torch.equal(image, draw_blobs(layout, 8, 16))
    hidden = layout.replace({"sizes": torch.full_like(layout.sizes, -99.0)})
    background = draw_blobs(hidden, 8, 16)
    torch.testing.assert_close(background, background[:1, :, :1, :1].expand_as(background))
