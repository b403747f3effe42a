"""Checks and guesses of `blobex explain` before torch is imported, so that a mistake is refused at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from blobex.config.params import Params
from blobex.config.read import load_params, read_yaml
from blobex.config.value_types import Shape
from blobex.core.errors import BlobexError
from blobex.core.reference_networks import check_setup, checked_params, trained

if TYPE_CHECKING:
    from blobex.explain.request import Request

LOOKED_AT = 32  # images of a folder whose shape is looked at
ORIENTATION, TURNED = 0x0112, 5  # EXIF tag, and its least value that swaps width and height


def find_params(params: Path | None, models: Path) -> Path:
    """Return the parameter file: the one given, one in or beside the networks', the project's, or the reference's."""
    if params is not None:
        return params
    beside = (folder / "params.yaml" for folder in (models, models.resolve().parent))
    return next((path for path in beside if path.is_file()), trained("params.yaml"))


def choose_setup(setup: str | None, photos: Sequence[Path], models: Path, params: Params) -> str:
    """Return the setup given, the only one with a trained generator, or the one nearest to most images' shape."""
    folder = trained(models)
    if setup is not None:
        params.setup(setup)  # refuses another name
        check_setup(folder, setup)
        return setup
    setups = get_args(Shape)
    present = [name for name in setups if (folder / "blobgan" / name).is_dir()] or list(setups)

    def nearest(size: tuple[int, int]) -> str:
        return min(present, key=lambda name: abs(math.log(size[0] / size[1] / params.setup(name).aspect_ratio)))

    votes = Counter(nearest(size) for photo in photos for size in islice(_sizes(photo), LOOKED_AT))
    return max(sorted(present), key=lambda name: votes[name])  # of equals, rect


def check(
    photos: Sequence[Path], request: Request, setup: str, params: Params, decision: str | None, models: Path
) -> None:
    """Raise BlobexError if a photo is missing, or a value of the request is unknown or out of range.

    The outputs of a model are known only if its card or config tells their names (see `known_outputs`).
    """
    from blobex.explain.request import make_plan

    check_photos(photos)
    _ = make_plan(request, (), None, params.explain, cast(Shape, setup)).wanted
    model = params.explain.decision if decision is None else decision
    outputs = known_outputs(model, setup, models)
    check_names(split_names(request.attributes, outputs), outputs, model)


def check_photos(photos: Sequence[Path]) -> None:
    """Raise BlobexError if a file or folder is missing."""
    for photo in photos:
        with suppress(OSError):  # such as a name that is too long: reported when it is loaded
            if not photo.exists():
                raise BlobexError(f"there is no image {photo}: check the path")


def known_outputs(decision: str, setup: str, models: Path) -> tuple[str, ...]:
    """Return the names of the model's outputs if its card or config tells them; () if only the model itself does.

    One name in a card may be that of one output or, with `not` before it, of two (see `outputs.is_binary`).
    """
    from blobex.scenes.rules import ACTIONS, REASONS

    path, is_card = Path(decision).expanduser(), decision.endswith((".yaml", ".yml"))
    try:
        if is_card:
            outputs = read_yaml(path)["outputs"]
            listed = isinstance(outputs, list) and len(outputs) > 1  # a text is refused when the model is loaded
            return tuple(outputs) if listed and all(isinstance(name, str) for name in outputs) else ()
        folder = path if path.is_dir() else trained(models) / "decision" / setup / decision
        config = read_yaml(folder / "config.yaml")
        return (ACTIONS + REASONS)[: config.get("outputs", len(ACTIONS))] if config["kind"] == "decision" else ()
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ()


def split_names(texts: Sequence[str] | None, outputs: Sequence[str]) -> list[str] | None:
    """Split texts at commas into names; a text that is the name of an output stays whole.

    >>> split_names(["stop,left", "maillot, tank suit"], ["maillot, tank suit"])
    ['stop', 'left', 'maillot, tank suit']
    """
    if texts is None:
        return None
    parts = ([text] if text in outputs else [part.strip() for part in text.split(",")] for text in texts)
    return list(dict.fromkeys(name for names in parts for name in names))


def check_names(names: Sequence[str] | None, outputs: Sequence[str], model: str) -> None:
    """Raise BlobexError if a name is neither that of an output nor its number."""
    for name in names or ():
        number = name.isdecimal() and int(name) < len(outputs)
        if outputs and name not in outputs and not number:
            raise BlobexError(f"{model} has no output {name!r}: choose from {', '.join(outputs)}")


def load(params: Path | None, models: Path) -> Params:
    """Load the parameters that `find_params` finds. BlobexError: they are invalid, or there are no networks."""
    return load_params(checked_params(find_params(params, models)))


def _sizes(photo: Path) -> Iterator[tuple[int, int]]:
    """Yield width and height, as they are seen, of an image or of a folder's images; others are left out."""
    from PIL import Image

    with suppress(OSError):
        for path in photo.rglob("*") if photo.is_dir() else (photo,):
            try:
                if path.is_file():  # opening a pipe would block
                    with Image.open(path) as image:
                        turned = image.getexif().get(ORIENTATION, 1) >= TURNED
                        yield image.size[::-1] if turned else image.size
            except Exception:  # no image, or damaged: reported when it is loaded
                continue
