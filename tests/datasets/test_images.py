"""Image files, cropping and resizing, and conversion between bytes and floats."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.datasets import images
from blobex.datasets.images import (
    crop_box,
    fit,
    fit_mask,
    list_images,
    load_image,
    to_array,
    to_float,
    to_tensor,
    to_uint8,
    write_png,
)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_png_round_trip(tmp_path, pixels):
    write_png(tmp_path / "new" / "a.png", pixels)
    assert np.array_equal(load_image(tmp_path / "new" / "a.png"), pixels)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path, pixels, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(pixels).convert(mode).save(path)
    loaded = load_image(path)
    assert loaded.shape == (20, 30, 3) and loaded.dtype == np.uint8
    if mode in ("L", "LA", "1"):
        assert (loaded == loaded[:, :, :1]).all()


def test_sixteen_bits_keep_the_high_byte(tmp_path):
    grey = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 1, 255]


def test_transparency_lies_over_black(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, (0, 255, 51)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 200, 40]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_rotation(tmp_path, pixels, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "a.png"), np.rot90(pixels, turns))


def test_files_that_are_not_images_are_refused_in_one_sentence(tmp_path, pixels):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for ending in ("png", "jpg"):
        Image.fromarray(pixels.repeat(4, 0)).save(tmp_path / f"whole.{ending}")
        data = (tmp_path / f"whole.{ending}").read_bytes()
        (tmp_path / f"cut.{ending}").write_bytes(data[: len(data) // 2])
    Image.fromarray(np.zeros((4, 4), dtype=np.float32)).save(tmp_path / "float.tif")
    cases = {
        "text.png": "not an image",
        "empty.jpg": "not an image",
        "cut.png": "damaged",
        "cut.jpg": "damaged",
        "absent.png": "no image",
        "": "no image",
        "float.tif": "floating-point",
    }
    for name, words in cases.items():
        with pytest.raises(BlobexError, match=words) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("side", [10_001, 60_000])
def test_huge_images_are_refused_before_decoding(tmp_path, side):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(BlobexError, match="100 megapixels"):
        load_image(tmp_path / "huge.png")


def test_crop_boxes_by_hand():
    assert crop_box(64, 128, 64, 64) == (32, 0, 96, 64)
    assert crop_box(720, 1280, 256, 512) == (0, 40, 1280, 680)
    assert crop_box(720, 1280, 256, 256) == (280, 0, 1000, 720)
    assert crop_box(10, 10, 7, 7) == (0, 0, 10, 10)
    assert crop_box(1000, 1, 16, 32) == (0, 499, 1, 500)


def test_fit(pixels):
    assert np.array_equal(fit(pixels, 20, 30), pixels)
    assert np.array_equal(fit(pixels, 20, 20), pixels[:, 5:25])
    wide = np.asarray(Image.fromarray(pixels).resize((12, 6), Image.Resampling.BICUBIC, box=(0, 2, 30, 17)))
    assert np.abs(fit(pixels, 6, 12).astype(int) - wide.astype(int)).max() <= 60  # at the border only
    assert np.array_equal(fit(pixels, 6, 12)[2:4], wide[2:4])
    constant = np.full((33, 57, 3), 77, dtype=np.uint8)
    assert (fit(constant, 16, 16) == 77).all()


def test_fit_reduces_without_aliasing():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit(stripes, 8, 8).astype(int) - 127).max() < 12


def test_fit_mask_takes_the_nearest_pixel():
    mask = np.random.default_rng(1).integers(0, 60000, (18, 40)).astype(np.uint16)
    assert np.array_equal(fit_mask(mask, 18, 18), mask[:, 11:29])
    assert np.array_equal(fit_mask(mask.repeat(3, 0).repeat(3, 1), 18, 40), mask)
    small = mask.astype(np.uint8)
    for height, width in ((9, 20), (36, 80), (54, 120)):
        reference = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST))
        assert np.array_equal(fit_mask(small, height, width), reference)


def test_bytes_survive_conversion_to_floats_and_back():
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_float(values)
    assert floats.dtype == torch.float32 and floats.min() == -1 and floats.max() == 1
    assert torch.equal(to_uint8(floats), values)
    assert to_uint8(torch.tensor([-5.0, 5.0, 0.0035, -0.0043])).tolist() == [0, 255, 128, 127]
    assert torch.equal(to_uint8(floats.double()), values)


def test_arrays_and_tensors(pixels):
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 20, 30) and tensor[1, 2, 3] == pixels[2, 3, 1]
    assert np.array_equal(to_array(to_float(tensor)), pixels)


def test_list_images(tmp_path, pixels):
    with pytest.raises(BlobexError, match="no images"):
        list_images(tmp_path)
    with pytest.raises(BlobexError, match="no folder"):
        list_images(tmp_path / "absent")
    for name in ("b.PNG", "a.jpg", "deep/c.jpeg"):
        write_png(tmp_path / "deep" / "x.png", pixels)
        (tmp_path / name).write_bytes((tmp_path / "deep" / "x.png").read_bytes())
    (tmp_path / "notes.txt").write_text("no")
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == [
        "a.jpg",
        "b.PNG",
        "deep/c.jpeg",
        "deep/x.png",
    ]


def test_failed_write_keeps_the_old_file(tmp_path, pixels, monkeypatch):
    path = tmp_path / "a.png"
    write_png(path, pixels)

    def fail(image: Image.Image, file: object, format: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(images.Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_png(path, 255 - pixels)
    monkeypatch.undo()
    assert np.array_equal(load_image(path), pixels) and list(tmp_path.iterdir()) == [path]


def test_palette_image_is_smaller_and_nearly_the_same(tmp_path):
    rows, columns = np.mgrid[:64, :96]
    smooth = np.stack([rows * 3, columns * 2, (rows + columns)], axis=2)
    image = (smooth + np.random.default_rng(0).integers(0, 8, smooth.shape)).astype(np.uint8)
    write_png(tmp_path / "all.png", image)
    write_png(tmp_path / "few.png", image, colours=256)
    few = load_image(tmp_path / "few.png")
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(few.astype(int) - image).mean() < 8
    assert (tmp_path / "few.png").stat().st_size < (tmp_path / "all.png").stat().st_size


def test_folder_lists_every_format_that_is_read_as_a_single_file(tmp_path):
    Image.init()
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in images.FORMATS}
    assert {".ppm", ".pgm", ".jp2", ".jpg"} <= endings
    for ending in endings:
        (tmp_path / f"image{ending}").write_bytes(b"")
    assert {path.suffix for path in list_images(tmp_path)} == endings


@pytest.mark.parametrize("ending", ["ppm", "pgm", "jp2"])
def test_folder_of_one_image(tmp_path, pixels, ending):
    """The pixels are those of Pillow's own decoder; JPEG 2000 is written without loss."""
    Image.fromarray(pixels).convert("L" if ending == "pgm" else "RGB").save(tmp_path / f"a.{ending}")
    (path,) = list_images(tmp_path)
    assert np.array_equal(load_image(path), np.asarray(Image.open(path).convert("RGB")))
