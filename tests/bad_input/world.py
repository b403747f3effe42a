"""A small world in which every command works, ways to break it, and what a command says and leaves behind."""

import copy
import hashlib
import json
import os
import runpy
import shlex
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from imports import ROOT
from PIL import Image
from safetensors.torch import load_file, save_file
from worlds.tiny_models import save_models, smooth_images

from blobex.cli import main as cli
from blobex.datasets.images import to_array
from blobex.scenes.write import DatasetCounts, write_dataset

Harm = Callable[[Path], object]
STATS = "data/fid_stats/rect/scenes_64.npz"
INVERSIONS = "data/invert/rect/inversions.pt"
RESULTS = "reports/explain/rect/basic/results"
EXPLAIN = "blobex explain photo.png --out out --attribute stop"


@dataclass(frozen=True)
class Case:
    """Something is broken, a command is run in the world's folder, and its sentence must hold all the words."""

    name: str
    harm: Harm
    command: str  # blobex ARGUMENTS, or stage NAME ARGUMENTS
    words: tuple[str, ...]


def whole(_: Path) -> None:
    """Nothing is broken: the command itself is the mistake."""


def build(folder: Path) -> Path:
    """Networks, pictures with labels, photos, and the results of the stages fid_stats, invert and explain."""
    save_models(folder)
    tree = yaml.safe_load((folder / "params.yaml").read_text())
    tree["data"]["cache"] = None
    tree["run"]["device"] = "cpu"
    tree["decision"]["architecture"] = "densenet_small"
    tree["invert"]["images"], tree["fid_stats"]["images"] = 2, 2
    tree["invert"]["rect"]["steps"] = 1
    tree["scenes"]["height"] = 32
    (folder / "params.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    write_dataset(folder / "data" / "scenes", DatasetCounts(2, 2, 2, 2, 2, 2, 2), 32, 0)
    (folder / "photos").mkdir()
    for number, picture in enumerate(smooth_images(2)):
        Image.fromarray(to_array(picture)).save(folder / "photos" / f"{number}.png")
    shutil.copy(folder / "photos" / "0.png", folder / "photo.png")
    for command in ("fid_stats rect", "invert rect", "explain rect basic"):
        assert run(f"stage {command}", folder) == (0, ""), command
    values = {"values": {"explain.rect.steps": 2}}
    put("reports/sweep_cf/rect/best.yaml", yaml.safe_dump(values))(folder)
    return folder


def copied(world: Path, place: Path) -> Path:
    """A copy of the world whose files are links: `put` and the like replace files, and never write into them."""
    return Path(shutil.copytree(world, place, copy_function=os.link))


def run(command: str, folder: Path) -> tuple[int, str]:
    """Exit code of a command run in a folder, and the message that it ends with, as the shell would show them."""
    program, *arguments = shlex.split(command)
    before, sys.argv = (sys.argv, Path.cwd()), [program, *arguments]
    os.chdir(folder)
    try:
        if program == "blobex":
            cli.main()
        else:
            sys.argv = sys.argv[1:]
            runpy.run_path(str(ROOT / "blobex" / "stages" / f"{sys.argv[0]}.py"), run_name="__main__")
    except SystemExit as end:
        return (end.code, "") if isinstance(end.code, int) else (int(end.code is not None), end.code or "")
    finally:
        sys.argv, place = before
        os.chdir(place)
    return 0, ""


class TooSlow(BaseException):
    """Nothing catches it but the test."""


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """TooSlow if what is within takes longer: it hangs, or does more work than bad input is worth."""

    def stop(*_: object) -> None:
        raise TooSlow(f"still at work after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder: what kind of thing it is, its size, and a hash of what it holds."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = (
            os.fsencode(path.readlink()) if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else b""
        )
        digest = hashlib.sha256(content).hexdigest()
        found[str(path.relative_to(folder))] = f"{stat.S_IFMT(mode)} {len(content)} {digest}"
    return found


def put(name: str, content: bytes | str) -> Harm:
    """A file with this content, in the place of whatever stands there."""

    def harm(folder: Path) -> None:
        gone(name)(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return harm


def gone(name: str) -> Harm:
    """No such file, and no such folder."""

    def harm(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)

    return harm


def cut(name: str, share: float = 0.5) -> Harm:
    """Only the first part of a file."""

    def harm(folder: Path) -> None:
        content = (folder / name).read_bytes()
        put(name, content[: int(len(content) * share)])(folder)

    return harm


def cut_at_a_line(name: str) -> Harm:
    """Only the first half of a text file's lines."""

    def harm(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines(keepends=True)
        put(name, "".join(lines[: len(lines) // 2]))(folder)

    return harm


def replaced(name: str, old: str, new: str) -> Harm:
    """A text file with other words in it."""

    def harm(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        put(name, text.replace(old, new, 1))(folder)

    return harm


def folder_at(name: str) -> Harm:
    """A folder with something in it where a file should be."""
    return lambda folder: (gone(name)(folder), put(f"{name}/within", b"")(folder))


def link_at(name: str, target: str) -> Harm:
    return lambda folder: (gone(name)(folder), (folder / name).symlink_to(target))


def pipe_at(name: str) -> Harm:
    """A pipe that nobody writes to: whoever opens it waits for ever."""
    return lambda folder: (gone(name)(folder), os.mkfifo(folder / name))


def setting(key: str, value: Any) -> Harm:
    """Another value at a dotted key of params.yaml."""
    return at("params.yaml", key, value, parameters, lambda content: yaml.safe_dump(content, sort_keys=False))


@cache
def parameters(text: str) -> Any:
    return yaml.safe_load(text)


def label(name: str, key: str, value: Any) -> Harm:
    """Another value at a dotted key of a JSON file."""
    return at(name, key, value, json.loads, json.dumps)


def at(name: str, key: str, value: Any, read: Callable[[str], Any], write: Callable[[Any], str]) -> Harm:
    """Another value at a dotted key, whose numbers are places in lists."""

    def harm(folder: Path) -> None:
        content = read((folder / name).read_text())
        put(name, write(changed(content, key, value)))(folder)

    return harm


def changed(content: Any, key: str, value: Any) -> Any:
    """A copy with another value at a dotted key; `key` may end at a new name."""
    content = node = copy.deepcopy(content)
    *path, last = (int(part) if part.lstrip("-").isdecimal() else part for part in key.split("."))
    for part in path:
        node = node[part]
    node[last] = value
    return content


def tensors(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    """A safetensors file with changed tensors."""

    def harm(folder: Path) -> None:
        content = load_file(folder / name)
        change(content)
        gone(name)(folder)
        save_file(content, folder / name)

    return harm


def saved(name: str, content: Any) -> Harm:
    """Write a file with torch.save; a function receives the current content of the file."""

    def harm(folder: Path) -> None:
        value = content(torch.load(folder / name, weights_only=True)) if callable(content) else content
        put(name, b"")(folder)
        torch.save(value, folder / name)

    return harm
