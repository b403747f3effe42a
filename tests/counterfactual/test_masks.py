"""Masks of changeable entries: keys, blobs and the background."""

import pytest

from blobex.config.keys import resolve_keys
from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import build_masks
from blobex.layout.blobs import KEYS

BLOBS = 3


def test_keys_are_resolved_in_their_order() -> None:
    assert resolve_keys(["style", "position", "xs"]) == ("xs", "ys", "spatial_style")
    assert resolve_keys(["size", "shape", "appearance"]) == ("covs", "sizes", "features")
    with pytest.raises(BlobexError, match="unknown key 'colour': choose from position"):
        resolve_keys(["colour"])
    with pytest.raises(BlobexError, match="no key"):
        resolve_keys([])


def test_masks_include_the_background() -> None:
    allowed = build_masks(BLOBS, KEYS, [0, 2], background=False)
    assert allowed["xs"].tolist() == [[True, False, True]]
    assert allowed["covs"].shape == (1, BLOBS, 1)
    assert allowed["sizes"].tolist() == [[False, True, False, True]]
    assert allowed["features"][..., 0].tolist() == [[False, True, False, True]]
    background = build_masks(BLOBS, ("features", "sizes"), [], background=True)
    assert background["features"][..., 0].tolist() == [[True, False, False, False]]
    assert not background["sizes"].any()
    assert set(background) == {"features", "sizes"}


@pytest.mark.parametrize(
    ("keys", "blobs", "background", "message"),
    [
        (("xs",), [3], True, "unknown blob 3: the blobs are numbered 0 to 2"),
        (("xs",), [-1], True, "unknown blob -1"),
        (("xs",), [[0], 1], True, "mixes"),
        (("xs", "sizes"), [], True, "nothing may change"),
        (("features",), [], False, "nothing may change"),
        (("features",), [[0], []], False, "nothing may change"),
    ],
)
def test_invalid_masks_are_refused(keys: tuple[str, ...], blobs: list[int], background: bool, message: str) -> None:
    with pytest.raises(BlobexError, match=message):
        build_masks(BLOBS, keys, blobs, background)


def test_background_may_change_in_some_images_only() -> None:
    allowed = build_masks(3, ("features",), [[0], [2]], background=[True, False])
    assert allowed["features"][:, :, 0].tolist() == [[True, True, False, False], [False, False, False, True]]
