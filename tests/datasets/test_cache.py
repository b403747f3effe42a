"""The cache returns the bytes of decoding, notices changed files and stays small."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import time
import tracemalloc
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from worlds.profiles import profile_params

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import load_decisions, load_detection, load_images, load_segmentation
from blobex.datasets.decoding import AHEAD, Cache, DecodedImages, Decoder, Size, decode, decode_cached, entry_key
from blobex.datasets.images import decode_image, fit, load_image
from blobex.scenes.write import DatasetCounts, write_dataset

SHAPE = (16, 32, 3)


class Reader:
    """Decoder that records the files it reads and fails on those in `broken`."""

    def __init__(self) -> None:
        self.seen: list[Path] = []
        self.broken: set[str] = set()

    def read(self, path: Path) -> tuple[np.ndarray, Size]:
        self.seen.append(path)
        if path.name in self.broken:
            raise BlobexError(f"{path} is broken")
        picture = decode_image(path)
        return fit(picture, 16, 32), picture.shape[:2]

    @property
    def decoder(self) -> Decoder:
        return Decoder("pictures", SHAPE, self.read)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    found = []
    for number in range(7):
        pixels = random.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        found.append(tmp_path / "in" / f"{number}.png")
        found[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(found[-1])
    return found


@pytest.fixture
def stored(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", "these")


def names(stored: Cache) -> list[str]:
    return sorted(path.name for path in stored.folder.iterdir() if path.name != ".lock")


def same(one: DecodedImages, two: DecodedImages) -> bool:
    told = [(some.found, some.paths, some.sizes, some.skipped) for some in (one, two)]
    return told[0] == told[1] and torch.equal(one.images, two.images)


@pytest.mark.parametrize("limit", [None, 1, 3])
def test_images_are_the_same_with_and_without_cache(paths: list[Path], stored: Cache, limit: int | None) -> None:
    reader = Reader()
    reader.broken = {"1.png"}
    plain = decode(paths, reader.decoder, skip=True, limit=limit)
    stack = np.stack([fit(load_image(path), 16, 32) for path in paths if path.name != "1.png"][:limit])
    assert np.array_equal(plain.images.numpy(), stack) and plain.sizes[0] == (20, 30)
    for _ in range(3):
        assert same(decode_cached(paths, reader.decoder, stored, skip=True, limit=limit), plain)


def test_second_call_decodes_nothing(paths: list[Path], stored: Cache) -> None:
    reader = Reader()
    decode_cached(paths, reader.decoder, stored)
    assert sorted(reader.seen) == paths
    decode_cached(paths, reader.decoder, dataclasses.replace(stored, use="others"))
    assert len(reader.seen) == len(paths)


def test_data_sets_are_the_same_with_and_without_cache(tmp_path: Path) -> None:
    write_dataset(tmp_path / "scenes", DatasetCounts(6, 3, 5, 3, 4, 3, 3), height=32, seed=5)
    params = profile_params("smoke")

    def loaded(folder: str | None) -> list[torch.Tensor]:
        data = dataclasses.replace(params.data, root=str(tmp_path / "scenes"), cache=folder)
        some: Params = dataclasses.replace(params, data=data)
        parts = [load_detection(some, "square", "train"), load_segmentation(some, "rect", "train")]
        parts.append(load_decisions(some, "square", "test"))
        return [*(tensor for part in parts for tensor in vars(part).values()), load_images(some, "rect", "val")]

    plain, first, second = (loaded(folder) for folder in (None, str(tmp_path / "cache"), str(tmp_path / "cache")))
    assert len(plain) == 9
    for tensors in (first, second):
        assert all(torch.equal(one, two) and one.dtype == two.dtype for one, two in zip(plain, tensors, strict=True))


def test_every_change_gives_another_key(paths: list[Path]) -> None:
    decoder = Reader().decoder
    keys = [entry_key(paths, decoder)]
    assert entry_key(list(paths), decoder) == keys[0]
    keys += [entry_key(paths[:-1], decoder), entry_key(paths[::-1], decoder), entry_key(paths, decoder, limit=3)]
    keys.append(entry_key(paths, dataclasses.replace(decoder, shape=(16, 16, 3))))
    keys.append(entry_key(paths, dataclasses.replace(decoder, name="masks")))
    times = paths[2].stat()
    os.utime(paths[2], ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    keys.append(entry_key(paths, decoder))
    with paths[3].open("ab") as file:
        file.write(b"x")
    keys.append(entry_key(paths, decoder))
    moved = paths[4].rename(paths[4].with_name("4b.png"))
    keys.append(entry_key([moved if path == paths[4] else path for path in paths], decoder))
    keys.append(entry_key(paths, decoder))  # one of them is absent now
    assert len(set(keys)) == len(keys)


def test_new_entry_replaces_the_old_one_of_the_same_use(paths: list[Path], stored: Cache) -> None:
    decoder = Reader().decoder
    decode_cached(paths, decoder, stored)
    (stored.folder / "notes.json").write_text("{}")
    decode_cached(paths[:2], decoder, dataclasses.replace(stored, use="others"))
    before = names(stored)
    Image.new("RGB", (40, 20), (9, 9, 9)).save(paths[0])
    assert (decode_cached(paths, decoder, stored).images[0] == 9).all()
    old, new = entry_key(paths[:2], decoder), entry_key(paths, decoder)
    assert len(before) == 5 and f"{old}.bin" not in before
    assert {f"{new}.bin", f"{new}.json", "notes.json"} < set(names(stored)) and len(names(stored)) == 5


@pytest.mark.parametrize("harm", ["cut", "longer", "no bytes", "no record", "damaged record", "wrong record"])
def test_damaged_entry_is_written_again(paths: list[Path], stored: Cache, harm: str) -> None:
    reader = Reader()
    plain = decode_cached(paths, reader.decoder, stored)
    entry = stored.folder / f"{entry_key(paths, reader.decoder)}.bin"
    record = entry.with_suffix(".json")
    content = entry.read_bytes()
    changed = json.loads(record.read_text()) | {"skipped": [99]}
    {
        "cut": lambda: entry.write_bytes(content[:-1]),
        "longer": lambda: entry.write_bytes(content + b"x"),
        "no bytes": entry.unlink,
        "no record": record.unlink,
        "damaged record": lambda: record.write_text(record.read_text()[:-9]),
        "wrong record": lambda: record.write_text(json.dumps(changed)),
    }[harm]()
    reader.seen.clear()
    assert same(decode_cached(paths, reader.decoder, stored), plain) and len(reader.seen) == len(paths)
    assert entry.read_bytes() == content and len(names(stored)) == 2


def test_files_of_stopped_processes_are_removed(paths: list[Path], stored: Cache) -> None:
    stored.folder.mkdir()
    for name in (f".{'a' * 32}.bin.part", f"{'b' * 32}.bin", f"{'c' * 32}.json", "keep.bin", ".keep.part"):
        (stored.folder / name).write_text("left")
    decode_cached(paths, Reader().decoder, stored)
    assert [name for name in names(stored) if "keep" in name] == [".keep.part", "keep.bin"] and len(names(stored)) == 4


def test_writing_to_the_images_does_not_change_the_cache(paths: list[Path], stored: Cache) -> None:
    decoder = Reader().decoder
    first = decode_cached(paths, decoder, stored)
    kept = first.images.clone()
    first.images.zero_()
    assert torch.equal(decode_cached(paths, decoder, stored).images, kept)


def test_decoding_needs_little_memory(paths: list[Path], stored: Cache) -> None:
    def read(path: Path) -> tuple[np.ndarray, Size]:
        return np.full((64, 128, 3), 7, dtype=np.uint8), (64, 128)

    decoder, one = Decoder("pictures", (64, 128, 3), read), 64 * 128 * 3
    many = paths * (10 * AHEAD // len(paths))
    tracemalloc.start()
    try:
        found = decode_cached(many, decoder, stored)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.images == 7).all() and len(found.images) == len(many)
    assert peak < 4 * AHEAD * one < len(many) * one


def test_skipped_file_is_tried_again(paths: list[Path], stored: Cache) -> None:
    reader = Reader()
    reader.broken = {"2.png", "5.png"}
    first = decode_cached(paths, reader.decoder, stored, skip=True)
    assert [(file.path.name, file.reason) for file in first.skipped] == [
        ("2.png", f"{paths[2]} is broken"),
        ("5.png", f"{paths[5]} is broken"),
    ]
    with pytest.raises(BlobexError, match=r"2\.png is broken"):
        decode_cached(paths, reader.decoder, stored)
    reader.broken = {"5.png"}  # as when its permissions change
    second = decode_cached(paths, reader.decoder, stored, skip=True)
    assert [file.path.name for file in second.skipped] == ["5.png"] and paths[2] in second.paths
    assert same(second, decode(paths, reader.decoder, skip=True))


@pytest.mark.parametrize("skip", [False, True])
def test_error_leaves_no_entry(paths: list[Path], stored: Cache, skip: bool) -> None:
    reader = Reader()
    reader.broken = {path.name for path in (paths if skip else paths[4:])}
    with pytest.raises(BlobexError, match=r"none of 7 files.*0\.png" if skip else r"4\.png is broken"):
        decode_cached(paths, reader.decoder, stored, skip=skip)
    assert names(stored) == []


def test_cache_that_cannot_be_written_is_refused(tmp_path: Path, paths: list[Path], stored: Cache, monkeypatch) -> None:
    stored.folder.write_text("a file")
    with pytest.raises(BlobexError, match=r"data\.cache .* cannot be written"):
        decode_cached(paths, Reader().decoder, stored)
    stored.folder.unlink()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 9, 1))
    with pytest.raises(BlobexError, match=r"data\.cache .* GB left"):
        decode_cached(paths, Reader().decoder, stored)
    monkeypatch.undo()
    assert names(stored) == []

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("blobex.datasets.decoding.collect", full)
    with pytest.raises(BlobexError, match="No space left"):
        decode_cached(paths, Reader().decoder, stored)
    assert names(stored) == []


def test_only_one_of_several_processes_decodes(tmp_path: Path, paths: list[Path], stored: Cache) -> None:
    def read(path: Path) -> tuple[np.ndarray, Size]:
        with (tmp_path / "log").open("a") as log:
            log.write(f"{path.name}\n")
        time.sleep(0.05)
        return fit(decode_image(path), 16, 32), (16, 32)

    def work() -> None:
        found = decode_cached(paths, Decoder("pictures", SHAPE, read), stored)
        os._exit(zlib.crc32(found.images.numpy().data) % 251 + 1)

    processes = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    wanted = zlib.crc32(decode(paths, Reader().decoder).images.numpy().data) % 251 + 1
    assert [process.exitcode for process in processes] == [wanted] * 3
    assert sorted((tmp_path / "log").read_text().split()) == [path.name for path in paths]
