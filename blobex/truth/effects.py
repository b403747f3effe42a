"""From phrases to causes: what explanations often say becomes an intervention on fresh scenes, and its effect is kept.

The idea is GIFT's verification (Zablocki et al., arXiv 2411.15605, 2024). An honest model has effects too: those of
the plain rules. What counts as a shortcut is the excess, by how much the model's decisions change more than the rules'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.datasets.images import decode_jpeg, fit, to_float, to_tensor
from blobex.explain.explainer import Explainer
from blobex.explain.stored_interventions import stored_interventions
from blobex.metrics.effects import Effect, effect, is_verified
from blobex.metrics.interval import Interval, difference_interval
from blobex.scenes.render import render
from blobex.scenes.rules import ACTIONS, PLAIN
from blobex.scenes.sample import sample
from blobex.scenes.scene import Scene
from blobex.scenes.write import DATASET_STRIDE, SPLIT_STRIDE, encode_jpeg
from blobex.truth.evaluation import EvaluatedAnswer, parser_reader
from blobex.truth.measures import flips, is_shortcut, phrase_excess
from blobex.truth.scene_changes import is_rendered, scene_pair

FRESH = 7  # index of the seeds of fresh scenes, between those of the splits and `write.WITNESS`
Allowed = Mapping[str, bool]  # by action, what the plain rules decide
Outputs = Callable[[Tensor], Tensor]  # images (N,3,H,W) in [-1,1] to logits (N,4)


@dataclass(frozen=True)
class ImagePair:
    """A scene before and after an intervention."""

    scene: str
    images: tuple[np.ndarray, ...]  # two, uint8 (H,W,3)
    allowed: tuple[Allowed, ...]  # two
    sure: Mapping[str, bool] | None = None  # actions about which the parser's reading is right before; None: all


@dataclass(frozen=True)
class PhraseEffect:
    """A phrase as a cause: of how many fresh scenes the change it names makes the model decide as it says."""

    rule: str
    phrase: str  # wanted decision and change, such as "left: time turned day"
    frequency_rank: int  # from 1, by how much more often it occurs than for an honest model
    renderer: bool  # changed by the renderer, otherwise by the generator
    effect: Effect  # on the share with the wanted decision
    excess: Interval  # of the effect over that on the plain rules' decisions
    verified: bool  # no chance: the excess is above 0 in all phrases of the rule that are said to be, p = 0.05
    example: ImagePair = field(repr=False, compare=False)  # with the largest excess
    decisions: tuple[bool, bool]  # about it, for the action that the phrase names

    @property
    def scenes(self) -> int:
        return self.effect.effect.count


def top_phrases(rows: Sequence[EvaluatedAnswer], honest: Sequence[EvaluatedAnswer], count: int) -> list[str]:
    """Return the phrases that occur more often than for an honest model, most first; without `honest`, all."""
    excess = phrase_excess(*(flips(answers, ACTIONS) for answers in (rows, honest)))
    return [phrase for phrase, share in excess.items() if share > 0][:count]


def fresh_scenes(count: int, seed: int) -> list[Scene]:
    """Return scenes that are in no data set."""
    start = seed * DATASET_STRIDE + FRESH * SPLIT_STRIDE
    return [sample(number) for number in range(start, start + count)]


def scene_image(scene: Scene, height: int, size: ImageSize) -> np.ndarray:
    """Render a scene `height` pixels high, and return its image, uint8 (H,W,3), as if it were read from a data set."""
    return fit(decode_jpeg(encode_jpeg(render(scene, height).image)), size.height, size.width)


def image_pairs(
    changes: Sequence[str], scenes: Sequence[Scene], height: int, explainer: Explainer, folder: Path
) -> dict[str, list[ImagePair]]:
    """Return for each change the pairs of the scenes that have a place for it; [] if neither can make it.

    Args:
        height: Of renderings, in pixels.
        explainer: Its generator makes what the renderer cannot; no decision matters.
        folder: Keeps the generator's images until the run ends.
    """
    show = partial(scene_image, height=height, size=explainer.params.setup(explainer.setup))
    pairs: dict[str, list[ImagePair]] = {change: [] for change in changes}
    for change in filter(is_rendered, changes):
        for scene in scenes:
            if states := scene_pair(change, scene):
                images, allowed = tuple(map(show, states)), tuple(map(_allowed, states))
                pairs[change].append(ImagePair(str(scene.seed), images, allowed))
    generated = [change for change in changes if not is_rendered(change)]
    if generated and explainer.examples is not None:
        shown = [show(scene) for scene in scenes]
        for change, pair in _generated(explainer, scenes, shown, folder):
            if change in generated:
                pairs[change].append(pair)
    return pairs


def _generated(
    explainer: Explainer, scenes: Sequence[Scene], images: Sequence[np.ndarray], folder: Path
) -> list[tuple[str, ImagePair]]:
    """Return all changes that the generator makes; what the rules decide about them is read by the parser."""
    read, names = parser_reader(explainer, PLAIN), [str(scene.seed) for scene in scenes]
    made = stored_interventions(explainer, names, _floats(images), folder)
    pairs = []
    for scene, image, own in zip(scenes, images, made, strict=True):
        before, *after = (each.allowed for each in read([image, *(each.image for each in own)]))
        sure = {action: before[action] == allowed for action, allowed in _allowed(scene).items()}
        pairs += [
            (each.phrase, ImagePair(str(scene.seed), (image, each.image), (before, allowed), sure))
            for each, allowed in zip(own, after, strict=True)
        ]
    return pairs


def phrase_effects(
    rule: str, phrases: Sequence[str], pairs: Mapping[str, Sequence[ImagePair]], outputs: Outputs
) -> list[PhraseEffect]:
    """Measure the effects of phrases with pairs on a model; verified ones first, then by excess, largest first."""
    decided = {
        change: outputs(_floats([image for pair in own for image in pair.images])).unflatten(0, (-1, 2)) > 0
        for change, own in pairs.items()
        if own and any(phrase.endswith(f": {change}") for phrase in phrases)
    }
    effects = []
    for number, phrase in enumerate(phrases, 1):
        wanted, change = phrase.split(": ", 1)
        action, positive = wanted.removeprefix("not "), not wanted.startswith("not ")
        own = pairs.get(change, ())
        rows = [row for row, pair in enumerate(own) if pair.sure is None or pair.sure[action]]
        if not rows:
            continue
        answers = decided[change][rows, :, ACTIONS.index(action)].tolist()
        model = [[float(value == positive) for value in answer] for answer in answers]
        rules = [[float(allowed[action] == positive) for allowed in own[row].allowed] for row in rows]
        excess = [after - before - (b - a) for (before, after), (a, b) in zip(model, rules, strict=True)]
        names = [own[row].scene for row in rows]
        shown = max(range(len(rows)), key=lambda row: excess[row])
        effects.append(
            PhraseEffect(
                rule=rule,
                phrase=phrase,
                frequency_rank=number,
                renderer=is_rendered(change),
                effect=effect([before for before, _ in model], [after for _, after in model], names),
                excess=difference_interval(excess, names, bound=2.0),
                verified=is_verified(excess, claims=len(phrases), positive=True),
                example=own[rows[shown]],
                decisions=(answers[shown][0], answers[shown][1]),
            )
        )
    return sorted(effects, key=lambda each: (not each.verified, -each.excess.mean, each.phrase))


def effect_rank(effects: Sequence[PhraseEffect], rule: str) -> int | None:
    """Return the rank, from 1, of the shortcut's first verified phrase; ties get the worst rank; None without one."""
    verified = [each for each in effects if each.verified]
    best = max((each.excess.mean for each in verified if is_shortcut(each.phrase, rule)), default=None)
    if best is None:
        return None
    return 1 + sum(each.excess.mean >= best for each in verified if not is_shortcut(each.phrase, rule))


def _allowed(scene: Scene) -> Allowed:
    return dict(zip(ACTIONS, PLAIN.actions(scene), strict=True))


def _floats(images: Sequence[np.ndarray]) -> Tensor:
    return to_float(torch.stack([to_tensor(image) for image in images]))
