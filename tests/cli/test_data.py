"""The command `blobex data` on folders of photos."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from PIL import Image
from worlds.profiles import profile_params

from blobex.cli import main as cli
from blobex.datasets.datamodule import load_image_files
from blobex.datasets.decoding import write_report
from blobex.datasets.images import list_images

LATIN_1 = os.fsdecode(b"caf\xe9.jpg")


def data_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of `blobex data` for the folder `photos` in `folder`."""
    params = profile_params("smoke")
    data = replace(params.data, source="folder", root="photos", cache=None)
    (folder / "params.yaml").write_text(yaml.safe_dump(asdict(replace(params, data=data))))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["blobex", "data"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_names_that_are_not_utf_8_are_listed_by_safe_names(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("plain.jpg", LATIN_1, "line\nbreak.jpg"):
        Image.new("RGB", (40, 20), "grey").save(tmp_path / "photos" / name)
    assert data_command(tmp_path, monkeypatch) == 0
    printed = capsys.readouterr().out
    assert "2 file names are not printable UTF-8" in printed and "caf\ufffd.jpg, line\ufffdbreak.jpg" in printed
    manifest = json.loads((tmp_path / "photos.json").read_text())
    digest, files = hashlib.sha256(), {os.fsencode(path.name): path for path in (tmp_path / "photos").iterdir()}
    for name in sorted(files):
        content = files[name].read_bytes()
        digest.update(name + b"\0" + str(len(content)).encode() + b"\0" + content)
    assert (manifest["files"], manifest["sha256"]) == (3, digest.hexdigest())


def test_files_with_such_names_are_read_and_reported(tmp_path) -> None:
    Image.new("RGB", (40, 20), "grey").save(tmp_path / LATIN_1)
    (tmp_path / f"broken {LATIN_1}").write_bytes(b"")
    params = profile_params("smoke")
    for cache in (None, str(tmp_path / ".cache")):
        some = replace(params, data=replace(params.data, source="folder", root=str(tmp_path), cache=cache))
        images = load_image_files(some, "square", list_images(tmp_path), "all")
        assert [path.name for path in images.paths] == [LATIN_1]
        write_report(tmp_path / "report.json", images)
        (skipped,) = json.loads((tmp_path / "report.json").read_bytes().decode("utf-8"))["skipped"]
        assert skipped["path"] == f"{tmp_path}/broken caf\ufffd.jpg" and "caf\ufffd.jpg is not an" in skipped["reason"]


def test_command_prints_any_name(tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / os.fsdecode(b"sc\xe8nes")
    monkeypatch.setattr(sys, "argv", ["blobex", "scenes", str(out), "--count", "1", "--height", "16"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code and "sc\\udce8nes" in capsys.readouterr().out and len(list(out.iterdir())) == 1
