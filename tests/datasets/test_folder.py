"""Folders of images of all kinds: listing, skipped files, and the report of both."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from worlds.profiles import profile_params

from blobex.config.data import ImageSize, ImageSizes
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import image_paths, load_image_files, load_images
from blobex.datasets.decoding import Outcome, Skipped, write_report
from blobex.datasets.images import folder_images, list_images, load_image
from blobex.metrics.frechet import load_statistics
from blobex.networks import weights
from blobex.networks.parser import Parser
from blobex.stages import fid_stats, invert

SPOTS = Image.fromarray(np.random.default_rng(3).integers(0, 256, (6, 10, 3), dtype=np.uint8))
PICTURE = SPOTS.resize((80, 48), Image.Resampling.BICUBIC)  # smooth, as lossy formats want it


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def huge() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


MORE = [PICTURE.rotate(90), PICTURE.rotate(180)]
SIXTEEN = Image.fromarray(np.arange(3840, dtype=np.uint16).reshape(48, 80) * 17)
GOOD: dict[str, Callable[[], bytes]] = {
    "plain.png": lambda: encoded(PICTURE, "PNG"),
    "capital.JPG": lambda: encoded(PICTURE, "JPEG"),
    "turned.jpeg": lambda: encoded(PICTURE, "JPEG", exif=turned(6)),
    "turned.webp": lambda: encoded(PICTURE, "WEBP", exif=turned(8)),
    "grey.png": lambda: encoded(PICTURE.convert("L"), "PNG"),
    "bits.png": lambda: encoded(PICTURE.convert("1"), "PNG"),
    "palette.png": lambda: encoded(PICTURE.convert("P"), "PNG", transparency=3),
    "transparent.png": lambda: encoded(PICTURE.convert("RGBA"), "PNG"),
    "press.jpg": lambda: encoded(PICTURE.convert("CMYK"), "JPEG"),
    "sixteen.png": lambda: encoded(SIXTEEN, "PNG"),
    "moving.gif": lambda: encoded(PICTURE, "GIF", save_all=True, append_images=MORE),
    "moving.webp": lambda: encoded(PICTURE, "WEBP", save_all=True, append_images=MORE, lossless=True),
    "pages.tif": lambda: encoded(PICTURE, "TIFF", save_all=True, append_images=MORE, compression="tiff_lzw"),
    "old.bmp": lambda: encoded(PICTURE, "BMP"),
    "plain.ppm": lambda: encoded(PICTURE, "PPM"),
    "grey.pgm": lambda: encoded(PICTURE.convert("L"), "PPM"),
    "bits.pbm": lambda: encoded(PICTURE.convert("1"), "PPM"),
    "sixteen.pgm": lambda: encoded(SIXTEEN, "PPM"),
    "wavelets.jp2": lambda: encoded(PICTURE, "JPEG2000"),
    "stream.J2K": lambda: encoded(PICTURE, "JPEG2000", no_jp2=True),
    "misnamed.jpg": lambda: encoded(PICTURE, "PNG"),
}
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "is not an image"),
    "text.png": (lambda: b"no picture at all\n" * 9, "is not an image"),
    "cut.jpg": (lambda: encoded(PICTURE, "JPEG", quality=95)[:-900], "is damaged"),
    "cut.png": (lambda: encoded(PICTURE, "PNG")[:-900], "is damaged"),
    "cut.webp": (lambda: encoded(PICTURE, "WEBP", lossless=True)[:-900], "is damaged|is not an image"),
    "film.mp4.jpg": (lambda: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(99), "is not an image"),
    "phone.heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "is not an image"),
    "float.tif": (lambda: encoded(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), "TIFF"), "floating-point"),
    "huge.png": (huge, "100 megapixels"),
}


def mixed_folder(folder: Path, count: int, seed: int = 0) -> tuple[list[Path], dict[Path, str]]:
    """Write `count` image files and others; return the good images, and the reason for each broken one."""
    random = np.random.default_rng(seed)
    good: list[Path] = []
    broken: dict[Path, str] = {}
    for number in range(count):
        path = folder / f"{random.integers(5)}" / f"deep {number % 3}"
        path.mkdir(parents=True, exist_ok=True)
        if random.random() < 0.05:
            name = list(BROKEN)[len(broken) % len(BROKEN)]
            path /= f"{number:04d}-{name}"
            path.write_bytes(BROKEN[name][0]())
            broken[path] = BROKEN[name][1]
        else:
            name = list(GOOD)[len(good) % len(GOOD)]
            path /= f"{number:04d}-{name}"
            path.write_bytes(GOOD[name]())
            good.append(path)
    for name in ("notes.txt", ".hidden.png", ".thumbs/a.png", "__MACOSX/0/._0001-plain.png", "Thumbs.db"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "0" / "circle").symlink_to(folder, target_is_directory=True)
    return sorted(good), broken


def folder_params(root: Path, cache: Path | None = None) -> Params:
    """Return the smoke profile at 16x16 and 16x32 for a folder, without tracking."""
    params = profile_params("smoke")
    setups = ImageSizes(square=ImageSize(16, 1), rect=ImageSize(16, 2))
    data = dataclasses.replace(params.data, root=str(root), source="folder", cache=str(cache) if cache else None)
    return dataclasses.replace(
        params, setups=setups, data=data, run=dataclasses.replace(params.run, tracking_uri="none", device="cpu")
    )


@pytest.mark.parametrize("name", GOOD)
def test_image_is_the_first_frame_upright(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(GOOD[name]())
    loaded = load_image(tmp_path / name).astype(int)
    wanted = {"turned.jpeg": 3, "turned.webp": 1}.get(name, 0)
    assert loaded.shape == ((80, 48, 3) if wanted else (48, 80, 3))
    if name.startswith("sixteen"):
        assert np.array_equal(loaded[:, :, 0], np.asarray(SIXTEEN).astype(int) // 256)
        return
    mode = {"grey": "L", "bits": "1", "palette": "P", "press": "CMYK"}.get(Path(name).stem, "RGB")
    reference = np.rot90(np.asarray(PICTURE.convert(mode).convert("RGB")), wanted).astype(int)
    assert np.abs(loaded - reference).mean() < 10


@pytest.mark.parametrize("name", BROKEN)
def test_error_says_why_a_file_is_broken(tmp_path: Path, name: str) -> None:
    make, words = BROKEN[name]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(BlobexError, match=words) as caught:
        load_image(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_pipes_and_dangling_links_are_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    (tmp_path / "whole.png").write_bytes(GOOD["plain.png"]())
    paths = list_images(tmp_path)
    found = load_image_files(folder_params(tmp_path), "square", paths, "all")
    assert [path.name for path in paths] == ["gone.jpg", "itself.jpg", "pipe.png", "whole.png"]
    assert [path.name for path in found.paths] == ["whole.png"]
    assert all("no image" in file.reason or "cannot be decoded" in file.reason for file in found.skipped)


def test_images_are_listed_in_subfolders_and_links(tmp_path: Path) -> None:
    good, broken = mixed_folder(tmp_path / "in", 60)
    assert list_images(tmp_path / "in") == sorted([*good, *broken])
    (tmp_path / "in" / "z.png").mkdir()  # a folder, whatever its name
    (tmp_path / "in" / "z.png" / "a.png").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b.png").touch()
    (tmp_path / "in" / "y").symlink_to(outside, target_is_directory=True)
    more = [tmp_path / "in" / "y" / "b.png", tmp_path / "in" / "z.png" / "a.png"]
    assert list_images(tmp_path / "in") == sorted([*good, *broken, *more])
    hidden = tmp_path / ".hidden"
    (tmp_path / "in").rename(hidden)  # only names within the folder count
    assert len(list_images(hidden)) == 62


def test_folder_that_cannot_be_opened_is_an_error(tmp_path: Path, monkeypatch) -> None:
    mixed_folder(tmp_path, 12)
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deep 1"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(BlobexError, match=r"deep 1 cannot be opened \(Permission denied\)"):
        list_images(tmp_path)


def test_split_does_not_depend_on_broken_files(tmp_path: Path) -> None:
    mixed_folder(tmp_path, 40)
    before = {split: folder_images(tmp_path, split) for split in ("train", "val")}
    for path in before["val"][::2] + before["train"][::7]:
        path.write_bytes(b"")
    assert {split: folder_images(tmp_path, split) for split in ("train", "val")} == before
    assert len(before["val"]) == 4 and len(before["train"]) == 36
    params = folder_params(tmp_path)
    found = load_image_files(params, "rect", image_paths(params, "val"), "val")
    assert set(found.paths) <= set(before["val"][1::2]) and {file.path for file in found.skipped} >= {before["val"][0]}


@pytest.mark.parametrize("cached", [False, True])
def test_read_and_skipped_files_are_exact(tmp_path: Path, cached: bool, caplog) -> None:
    good, broken = mixed_folder(tmp_path / "in", 120)
    params = folder_params(tmp_path / "in", tmp_path / "cache" if cached else None)
    for _ in range(2):
        found = load_image_files(params, "rect", list_images(tmp_path / "in"), "all")
        assert found.found == 120 and found.paths == good and len(found.images) == len(good)
        assert {file.path for file in found.skipped} == set(broken) and broken
        assert all(re.search(broken[file.path], file.reason) for file in found.skipped)
        sizes = {path.name[5:]: size for path, size in zip(found.paths, found.sizes, strict=True)}
        assert sizes["turned.jpeg"] == (80, 48) and sizes["plain.png"] == (48, 80)
        with caplog.at_level(logging.WARNING):
            images = load_images(params, "rect", "train")
        lost = sum(path in broken for path in image_paths(params, "train"))
        assert len(images) == 108 - lost and f"{lost} of 108 files" in caplog.text
        caplog.clear()


def test_folder_of_broken_files_is_an_error(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}.png").write_text("no")
    with pytest.raises(BlobexError, match=r"none of 11 files can be read; the first: .*00\.png is not an image"):
        load_images(folder_params(tmp_path), "square", "train")


def test_report_by_hand(tmp_path: Path) -> None:
    outcome = Outcome(1200, [Path("a")] * 963, [(1, 1)] * 963, [Skipped(Path("z.png"), "zz"), Skipped(Path("b"), "bb")])
    line = write_report(tmp_path / "new" / "pictures.json", outcome)
    assert line == f"1,200 files found: 963 read, 2 skipped, 235 not needed; reasons in {tmp_path}/new/pictures.json"
    assert json.loads((tmp_path / "new" / "pictures.json").read_text()) == {
        "found": 1200,
        "read": 963,
        "not_needed": 235,
        "skipped": [{"path": "b", "reason": "bb"}, {"path": "z.png", "reason": "zz"}],
    }


@pytest.mark.parametrize("cached", [False, True])
def test_statistics_of_a_mixed_folder(tmp_path: Path, cached: bool, monkeypatch, capsys) -> None:
    good, broken = mixed_folder(tmp_path / "in", 100)
    params = folder_params(tmp_path, tmp_path / "cache" if cached else None)
    options = dataclasses.replace(params.fid_stats, path=str(tmp_path / "in"), images=1000, batch_size=7)
    params = dataclasses.replace(params, fid_stats=options)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    parser = Parser([4, 6], 16, 32)
    weights.save(Path("models/parser/rect"), "parser", {"channels": [4, 6], "height": 16, "width": 32}, parser)
    fid_stats.main(params, "rect")
    report = json.loads(Path("data/fid_stats/rect/pictures.json").read_text())
    assert (report["found"], report["read"], report["not_needed"]) == (100, len(good), 0)
    assert [entry["path"] for entry in report["skipped"]] == sorted(map(str, broken))
    line = f"100 files found: {len(good)} read, {len(broken)} skipped; reasons in data/fid_stats/rect/pictures.json"
    assert line in capsys.readouterr().out
    whole = load_statistics(Path("data/fid_stats/rect") / f"{options.name}.npz")
    assert whole.images == len(good)
    for path in broken:
        path.unlink()
    fid_stats.main(params, "rect")
    again = load_statistics(Path("data/fid_stats/rect") / f"{options.name}.npz")
    assert torch.equal(again.mean, whole.mean) and torch.equal(again.covariance, whole.covariance)


def test_statistics_of_some_of_the_files(tmp_path: Path) -> None:
    good, broken = mixed_folder(tmp_path, 100)
    params = folder_params(tmp_path)
    for shuffle in (False, True):
        options = dataclasses.replace(params.fid_stats, path=str(tmp_path), images=50, shuffle=shuffle)
        found = fid_stats.real_images(dataclasses.replace(params, fid_stats=options), "square")
        assert len(found.paths) == len(set(found.paths)) == 50 and found.found == 100
        assert {file.path for file in found.skipped} <= set(broken)
        assert (found.paths == good[:50]) is not shuffle


def test_first_readable_images_are_inverted(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "in" / "train").mkdir(parents=True)
    good, broken = mixed_folder(tmp_path / "in" / "val", 60)
    params = folder_params(tmp_path / "in")
    first, wanted = min(broken), 30
    params = dataclasses.replace(params, invert=dataclasses.replace(params.invert, images=wanted))
    monkeypatch.chdir(tmp_path)
    names, queries, counts = invert.real(params, "square")
    assert names == [str(path) for path in good[:wanted]] and queries.shape == (wanted, 3, 16, 16)
    before = sorted(path for path in broken if path < good[wanted - 1])
    report = json.loads(Path("data/invert/square/pictures.json").read_text())
    assert [entry["path"] for entry in report["skipped"]] == [str(path) for path in before] and first in before
    assert counts == {"images": wanted, "skipped": len(before)}
    assert f"{60 - wanted - len(before)} not needed" in capsys.readouterr().out
