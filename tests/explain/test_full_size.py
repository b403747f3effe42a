"""Changes laid over a photo at its own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from blobex.datasets.images import fit, load_image
from blobex.explain.full_size import is_larger, lay_over, write_jpeg

RANDOM = np.random.default_rng(0)
ROAD = np.full((256, 512, 3), 90, np.uint8)  # 4 times the view, with a striped object in the middle
PHOTO = ROAD.copy()
PHOTO[100:180, 200:300] = np.where(np.arange(100)[:, None] % 2, 250, 150).astype(np.uint8)
QUERY, WITHOUT = fit(PHOTO, 64, 128), fit(ROAD, 64, 128)


def test_removed_object_takes_its_finest_details_along() -> None:
    """The stripes of one pixel do not show in the view, and yet they disappear with the object."""
    full = lay_over(PHOTO, QUERY, WITHOUT)
    assert full[110:170, 210:290].std() < 0.1 * PHOTO[110:170, 210:290].std()
    assert np.abs(full[110:170, 210:290].mean() - 90) < 3
    assert (full[:90] == PHOTO[:90]).all() and (full[:, :190] == PHOTO[:, :190]).all()


def test_network_sees_in_it_what_was_verified() -> None:
    new = QUERY.copy()
    new[10:30, 20:60] = RANDOM.integers(0, 255, 3)
    for counterfactual in (WITHOUT, new):
        seen = fit(lay_over(PHOTO, QUERY, counterfactual), 64, 128).astype(int)
        assert np.abs(seen - counterfactual).mean() < 1.0


def test_added_object_keeps_its_outline() -> None:
    new = fit(ROAD, 64, 128).copy()
    new[20:40, 30:50] = (200, 30, 30)
    full = lay_over(ROAD, fit(ROAD, 64, 128), new).astype(int)
    assert np.abs(full[84:156, 124:196] - (200, 30, 30)).max() < 12  # a pixel of the view within its edge
    assert (np.abs(full[:, :112] - 90).max(), np.abs(full[:72] - 90).max()) == (0, 0)  # and beyond it


def test_nothing_changed_and_small_photos() -> None:
    assert (lay_over(PHOTO, QUERY, QUERY) == PHOTO).all()
    assert is_larger(PHOTO, QUERY) and not is_larger(QUERY, QUERY)


def test_margins_that_the_network_does_not_see_stay() -> None:
    wide = np.concatenate([np.full((256, 100, 3), 7, np.uint8), PHOTO, np.full((256, 100, 3), 9, np.uint8)], axis=1)
    full = lay_over(wide, QUERY, WITHOUT)
    assert (full[:, :100] == 7).all() and (full[:, -100:] == 9).all()
    assert (full[:, 100:-100] == lay_over(PHOTO, QUERY, WITHOUT)).all()


def test_file_has_the_size_of_the_turned_photo_and_says_what_was_verified(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # turned by a quarter
    exif[ExifTags.Base.Artist] = "somebody"
    Image.fromarray(np.rot90(PHOTO)).save(tmp_path / "photo.jpg", exif=exif, quality=95)
    photo = load_image(tmp_path / "photo.jpg")
    assert photo.shape == PHOTO.shape
    write_jpeg(tmp_path / "full.jpg", lay_over(photo, QUERY, WITHOUT), "verified at 128 x 64", tmp_path / "photo.jpg")
    with Image.open(tmp_path / "full.jpg") as written:
        assert written.size == (512, 256)
        assert dict(written.getexif()) == {ExifTags.Base.ImageDescription: "verified at 128 x 64"}
