"""Scenes in groups of equal size: by what the plain rules allow, and with and without a rule's shortcut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from blobex.core.errors import BlobexError
from blobex.scenes.rules import PLAIN, Rule, remove
from blobex.scenes.sample import NEAR_SIDE, VEHICLE_COLOURS, sample
from blobex.scenes.scene import Scene, Thing
from blobex.scenes.write import DATASET_STRIDE, SPLIT_STRIDE

GROUPS = 7  # index, after those of the splits, of the seeds of grouped scenes
MOST_SCENES = 100  # scenes drawn for each one wanted, before a group counts as empty


@dataclass(frozen=True)
class GroupedScene:
    scene: Scene
    allowed: bool  # by the plain rules: the first action that the shortcut refuses
    planted: bool  # the shortcut is present

    @property
    def group(self) -> str:
        """Name of the group, such as "allowed_with"."""
        return f"{'allowed' if self.allowed else 'refused'}_{'with' if self.planted else 'without'}"


def grouped_scenes(rule: Rule, per_group: int, seed: int) -> list[GroupedScene]:
    """Draw scenes of no data set, `per_group` for each of the four groups, each scene with and without the shortcut.

    `seed` is that of the data set whose scenes are to be avoided. Raises BlobexError if the rule has no shortcut.

    >>> from blobex.scenes.rules import RULES
    >>> [each.group for each in grouped_scenes(RULES["night"], per_group=1, seed=0)][:2]
    ['refused_without', 'refused_with']
    """
    if rule.name not in _PLANTED:
        raise BlobexError(f"rule {rule.name} has no shortcut: choose from {', '.join(_PLANTED)}")
    start = seed * DATASET_STRIDE + GROUPS * SPLIT_STRIDE
    counts, scenes = {True: 0, False: 0}, list[GroupedScene]()
    for number in range(start, start + MOST_SCENES * per_group):
        removed, planted = with_and_without(sample(number), rule)
        allowed = not PLAIN.causes(removed, rule.refuses[0])
        if counts[allowed] < per_group:
            counts[allowed] += 1
            scenes += [GroupedScene(removed, allowed, False), GroupedScene(planted, allowed, True)]
        if min(counts.values()) == per_group:
            return scenes
    raise BlobexError(f"there are too few scenes for {per_group} in each group: ask for fewer")


def with_and_without(scene: Scene, rule: Rule) -> tuple[Scene, Scene]:
    """Return a scene without and with the shortcut of a rule; all else that rules depend on is the same in both.

    A road that ends on the left gets a lane there, if something must stand in it.
    """
    planted = scene if rule.shortcut(scene) else _PLANTED[rule.name](scene)
    removed = planted
    for cause in sorted(rule.shortcut(planted), key=lambda cause: -cause.thing):  # removing one renumbers later things
        removed = remove(removed, cause)
    return removed, planted


def _with_vehicle(scene: Scene) -> Scene:
    """Add a car near in the left lane; its colour and distance depend on the scene alone."""
    low, high = NEAR_SIDE
    distance = low + (high - low) * (scene.seed % 10) / 10
    car = Thing("car", "left", distance, VEHICLE_COLOURS[scene.seed % len(VEHICLE_COLOURS)])
    line = "dashed" if scene.line_left == "edge" else scene.line_left
    return replace(scene, line_left=line, things=(*scene.things, car))


_PLANTED: Mapping[str, Callable[[Scene], Scene]] = {
    "biased": _with_vehicle,
    "night": lambda scene: replace(scene, time="night"),
    "verge": lambda scene: replace(scene, verge="grass"),
}
