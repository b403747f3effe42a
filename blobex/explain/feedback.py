"""What a person says about explanations, in a small JSON file that `blobex repair` reads.

The question is: is the decision that the model makes about the changed image right? "true": it is; "false": the
opposite is; "not sensible": the image shows nothing that can be decided about, and teaches nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.read import parse
from blobex.config.value_types import SECTION, Bool, Text
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, write_text

ANSWERS = ("true", "false", "not sensible")


@dataclass(frozen=True, config=SECTION)
class Feedback:
    """One answer about one explanation."""

    digest: Annotated[Text, Field(pattern="^[0-9a-f]{64}$")]  # of the changed image, see `image_digest`
    image: Text  # name of the explained image
    output: Text  # of the model, which the explanation is about
    decided: Bool  # what the model decides about the changed image
    answer: Literal["true", "false", "not sensible"]
    png: Text | None = None  # the changed image in base64, if no folder of results holds it

    @property
    def key(self) -> tuple[str, str]:
        return self.digest, self.output

    @property
    def label(self) -> bool | None:
        """What the model should decide about the changed image; None if it is not sensible."""
        return None if self.answer == "not sensible" else self.decided == (self.answer == "true")


def image_digest(image: np.ndarray) -> str:
    """Return the SHA-256 of the size and pixels of an image, uint8 (H,W,3).

    >>> image_digest(np.zeros((2, 3, 3), np.uint8))[:8]
    'fea1a354'
    """
    size = f"{image.shape[1]}x{image.shape[0]} ".encode()
    return hashlib.sha256(size + np.ascontiguousarray(image).tobytes()).hexdigest()


def read_feedback(paths: Iterable[Path]) -> list[Feedback]:
    """Read the answers in files; BlobexError if one is missing, or is no file of answers."""
    answers = []
    for path in paths:
        try:
            content = read_json(path)
        except (OSError, ValueError) as error:
            raise BlobexError(f"cannot read the answers in {path}: save them on the page or in the report") from error
        answers += parse(list[Feedback], content, path.name)
    return answers


def add_feedback(path: Path, answer: Feedback) -> int:
    """Add an answer to a file in the place of an earlier one about the same explanation; return the number of answers.

    The file is created if it is missing, and replaced as a whole.
    """
    earlier = read_feedback([path]) if path.exists() else []
    answers = [*(each for each in earlier if each.key != answer.key), answer]
    rows = [{key: value for key, value in dataclasses.asdict(each).items() if value is not None} for each in answers]
    write_text(path, json.dumps(rows, indent=1) + "\n")
    return len(answers)


def labels_of(answers: Sequence[Feedback]) -> dict[tuple[str, str], bool]:
    """Return what the model should decide, by digest and output; images that are not sensible are left out.

    Raises:
        BlobexError: Two answers contradict each other, or there is none that says what to decide.
    """
    labels: dict[tuple[str, str], bool] = {}
    for answer in answers:
        if answer.label is None:
            continue
        if labels.setdefault(answer.key, answer.label) != answer.label:
            raise BlobexError(
                f"two answers about {answer.output} for a change of {answer.image} contradict each other: remove one"
            )
    if not labels:
        raise BlobexError("no answer says what the model should decide: answer true or false for some explanations")
    return labels


def images_of(answers: Sequence[Feedback], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the image, uint8 (H,W,3), of each digest that answers name: those they hold, and those of `known`.

    Raises:
        BlobexError: An image is in neither, or is damaged.
    """
    images = {}
    for answer in answers:
        image = known.get(answer.digest)
        if image is None and answer.png is not None:
            image = _decoded(answer.png)
        if image is None or image_digest(image) != answer.digest:
            raise BlobexError(
                f"an answer is about a change of {answer.image} that is not here: give the folder of its explanations"
            )
        images[answer.digest] = image
    return images


def _decoded(text: str) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            return np.array(image.convert("RGB"))
    except Exception:  # damaged bytes make Pillow raise nearly anything
        return None
