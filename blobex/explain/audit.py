"""Audit of a model on images: the factors of a scene on which its decisions depend, by interventions of the generator.

Each factor is turned on or off in every image that allows it, and the model decides both; see `metrics.effects`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array, to_float, to_tensor
from blobex.decisions.decision import Decision
from blobex.explain.explainer import Explainer
from blobex.explain.interventions import Intervention
from blobex.explain.loading import decided
from blobex.explain.stored_interventions import stored_interventions
from blobex.metrics.effects import Effect, effect, is_verified
from blobex.optim.network_callables import Decide

LEAST_IMAGES = 8  # an exact test of fewer can hardly show anything
TURNS = {"left": "left turns", "right": "right turns", "stop": "stops", "forward": "decisions to drive on"}
FACTORS: Mapping[str, tuple[str, bool]] = {  # form of a phrase: factor, and whether it is on afterwards
    r"time turned night": ("time of day", True),
    r"time turned day": ("time of day", False),
    r"verge turned grass": ("grass beside the road", True),
    r"verge turned sidewalk": ("grass beside the road", False),
    r"light turned red": ("red light", True),
    r"light turned green": ("red light", False),
    r"(left|right) line turned dashed": (r"dashed \1 line", True),
    r"(left|right) line turned .*": (r"dashed \1 line", False),
    r"(.*) added": (r"\1", True),
    r"(.*) removed": (r"\1", False),
    r"(.*) grew": (r"amount of \1", True),
    r"(.*) shrank": (r"amount of \1", False),
    r"(.*) became larger": (r"size of \1", True),
    r"(.*) became smaller": (r"size of \1", False),
    r"(.*) moved (right|nearer)": (r"place of \1", True),
    r"(.*) moved (left|farther)": (r"place of \1", False),
    r"(.*) recoloured": (r"colour of \1", True),
    r"(.*) replaced": (r"kind of \1", True),
}


@dataclass(frozen=True)
class Pair:
    """An image with a factor off and on; one of the two is the image itself."""

    image: str  # its name
    phrase: str  # the intervention
    off: np.ndarray = field(repr=False)  # uint8 (H,W,3)
    on: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Dependence:
    """The effect of a factor on one output of the model."""

    output: str
    factor: str
    effect: Effect  # on the share of images with the decision
    images: int
    verified: bool  # no chance: it holds with all others that are said to be of this output, p = 0.05
    example: Pair  # which shows the effect, if one does
    decisions: tuple[bool, bool]  # about it, off and on

    @property
    def likely(self) -> bool:
        """True if the interval of the effect excludes 0, which does not yet make it `verified`."""
        return self.effect.effect.low > 0 or self.effect.effect.high < 0

    @property
    def text(self) -> str:
        """The factor with its effect, as "time of day (-0.62 [-0.71, -0.52])"."""
        value = self.effect.effect
        return f"{self.factor} ({value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}])"


@dataclass(frozen=True)
class Audit:
    """What was found about a model."""

    images: int
    dependences: list[Dependence]  # of each output: verified ones first, then the largest


def audit(explainer: Explainer, folder: str | Path, keep: Path) -> Audit:
    """Measure on which factors a model's decisions about a folder's images depend, for each of its outputs.

    `keep` gets the changed images; a stopped audit continues there.

    Raises:
        BlobexError: The model decides no attributes or classes, or always alike; there are fewer images than
            LEAST_IMAGES, or no vehicle in any; or the networks allow no interventions.
    """
    if explainer.decision.kind not in ("attributes", "classes"):
        raise BlobexError(f"an audit counts decisions, and {explainer.decision.name} makes none: give a classifier")
    images = explainer.load_images(folder)
    if len(images) < LEAST_IMAGES:
        many = f"{len(images)} image{'s' if len(images) > 1 else ''}"
        raise BlobexError(f"an audit averages over images, and {folder} has {many}: give {LEAST_IMAGES} or more")
    arrays = [to_array(query) for query in images.queries]
    if not any(item.family == "vehicle" for reading in explainer.readings(arrays) for item in reading.objects):
        raise BlobexError(f"the parser sees no vehicle in the images of {folder}: give images of roads with traffic")
    made = stored_interventions(explainer, images.names, images.queries, keep)
    pairs = factor_pairs(images.names, arrays, made)
    outputs = decided(explainer.decision, explainer.device, explainer.batch_size)
    found = dependences(pairs, explainer.decision, outputs)
    if not any(each.effect.changes for each in found):
        raise BlobexError(
            f"{explainer.decision.name} decides every image alike before and after all {sum(map(len, made))} changes: "
            "check its outputs and their thresholds, it does not react to these images"
        )
    return Audit(len(images), found)


def factor_of(phrase: str) -> tuple[str, bool]:
    """Return the factor that a phrase changes, and whether it is on afterwards.

    >>> factor_of("vehicle on the left removed"), factor_of("left line turned solid")
    (('vehicle on the left', False), ('dashed left line', False))
    """
    for pattern, (name, is_on) in FACTORS.items():
        if match := re.fullmatch(pattern, phrase):
            return match.expand(name), is_on
    return phrase, True


def factor_pairs(
    names: Sequence[str], images: Sequence[np.ndarray], made: Sequence[Sequence[Intervention]]
) -> dict[str, list[Pair]]:
    """Return the pairs of images of each factor, ordered by image."""
    pairs: dict[str, list[Pair]] = {}
    for name, image, own in zip(names, images, made, strict=True):
        for each in own:
            factor, is_on = factor_of(each.phrase)
            states = (image, each.image) if is_on else (each.image, image)
            pairs.setdefault(factor, []).append(Pair(name, each.phrase, *states))
    return pairs


def dependences(pairs: Mapping[str, Sequence[Pair]], decision: Decision, outputs: Decide) -> list[Dependence]:
    """Measure the effects of all factors on all of a model's outputs."""
    found = []
    for factor, own in sorted(pairs.items()):
        batch = torch.stack([to_tensor(image) for pair in own for image in (pair.off, pair.on)])
        answers = decisions(outputs(to_float(batch)), decision.kind).unflatten(0, (-1, 2))
        for column, output in enumerate(decision.outputs):
            off, on = (answers[:, state, column].tolist() for state in (0, 1))
            found.append(_dependence((output, factor), own, (off, on), len(pairs)))
    order = {output: number for number, output in enumerate(decision.outputs)}
    return sorted(
        found, key=lambda each: (order[each.output], not each.verified, -abs(each.effect.effect.mean), each.factor)
    )


def _dependence(
    of: tuple[str, str], pairs: Sequence[Pair], states: tuple[list[bool], list[bool]], claims: int
) -> Dependence:
    names = [pair.image for pair in pairs]
    measured = effect([float(value) for value in states[0]], [float(value) for value in states[1]], names)
    changes: dict[str, float] = {}  # by image, whose pairs are not independent
    for name, off, on in zip(names, *states, strict=True):
        changes[name] = changes.get(name, 0.0) + on - off
    sign = measured.effect.mean
    shown = max(range(len(pairs)), key=lambda row: (states[1][row] - states[0][row]) * sign)
    return Dependence(
        output=of[0],
        factor=of[1],
        effect=measured,
        images=len(changes),
        verified=is_verified(list(changes.values()), claims),
        example=pairs[shown],
        decisions=(states[0][shown], states[1][shown]),
    )


def decisions(outputs: Tensor, kind: str) -> Tensor:
    """Return which outputs a model decides for, bool (N,A), from its logits (N,A): positive attributes, or the class.

    >>> decisions(torch.tensor([[-1.0, 2.0], [3.0, 4.0]]), "attributes").int().tolist()
    [[0, 1], [1, 1]]
    """
    if kind == "attributes":
        return outputs > 0
    return torch.nn.functional.one_hot(outputs.argmax(1), outputs.shape[1]) > 0


def sentences(found: Sequence[Dependence]) -> list[str]:
    """Say for each output on which factors it depends: "this model's left turns depend on: time of day (...)"."""
    told = []
    for output in dict.fromkeys(each.output for each in found):
        own = [each for each in found if each.output == output]
        causes = ", ".join(each.text for each in own if each.verified)
        likely = ", ".join(each.text for each in own if each.likely)
        unproven = f"likely {likely}; give more images to prove it" if likely else "nothing that was tried"
        told.append(f"this model's {TURNS.get(output, f'decisions for {output!r}')} depend on: {causes or unproven}")
    return told
