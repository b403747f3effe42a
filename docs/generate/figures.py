"""Measured figures in the documents: what stands between `<!-- figures: NAME -->` and `<!-- end -->`.

python docs/generate/figures.py [--check]

Values are read from the files that the stages wrote, or, where these are not here, from models/store at the state that
dvc.lock records. With --check nothing is written: documents that differ are listed, and the exit code is 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from blobex.config.explain import VARIANTS
from blobex.core.errors import BlobexError, sentence
from blobex.core.files import read_json, write_text
from blobex.report.believable import ROWS, UNKNOWN, believable_lines, markdown
from blobex.report.results import SETUPS
from blobex.scenes.rules import PLAIN, RULES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
OPENING = "<!-- figures:"
LOCKED = re.compile(r"path: (\S+)\n\s+hash: md5\n\s+md5: ([0-9a-f]{32})\n")
RELATIVE = re.compile(r"(\d+) times `(\w+)`")  # a goal
IN_MODELS = {"parser", "decision", "control", "encoder", "witness", "repair"}
CONTROL, OURS_SAME = "control", "ours_same"  # as in blobex.truth, which imports torch
METHODS = {
    "ours": "ours",
    OURS_SAME: "ours, on the images of the published search",
    "published": "published search",
    "pixels": "pixel attack",
    "random": "random edits",
}
LEARNT_FROM = METHODS | {
    "before": "nothing (before the repair)",
    "photos": "the explained and other training images, unchanged",
    "unchanged": "the explained images, unchanged",
}
Measures = Mapping[str, float]


@dataclass(frozen=True)
class Figure:
    """A figure with its title, the stage and name of its measure, and its goal in words."""

    title: str
    name: str
    stage: str = ""
    goal: str = ""  # "97%" and "at least 0.8" from below, "0.3" and "3 times `name`" from above
    share: bool = False  # a percentage, otherwise a number
    total: str = ""  # of a rank: the name of the number of candidates

    def text(self, measures: Measures, name: str = "") -> str:
        """Format value, 95% interval and count, as far as they are known; bold if the goal is missed."""
        name = name or self.name
        value = measures.get(name)
        if self.total:
            return _rank(value, measures.get(self.total), self.goal)
        if value is None:
            return UNKNOWN
        low, high, count = (measures.get(f"{name}{end}") for end in ("_low", "_high", "_count"))
        text = f"{self._number(value)}{'%' if self.share else ''}"
        text += "" if low is None or high is None else f" [{self._number(low)}, {self._number(high)}]"
        text += "" if count is None else f", n = {count:.0f}"
        return f"**{text}**" if misses(self.goal, value, measures) else text

    def _number(self, value: float) -> str:
        value = 100 * value if self.share else value
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


NETWORKS = (
    Figure("scene parser: mean IoU", "semantic_iou", "parser", "at least 0.85"),
    Figure("scene parser: box AP50", "box_ap50", "parser", "at least 0.8"),
    Figure("scene parser: IoU of the drivable area", "drivable_iou", "parser"),
    Figure("decision models: lowest accuracy of an action", "accuracy_lowest", "decision", "97%", share=True),
    Figure("decision witnesses: the same", "accuracy_lowest", "witness", share=True),
    Figure("control model: mean error of the brake, from 0 to 1", "error_brake", "control"),
    Figure("reconstructions with the same decision as the query", "agreement", "invert", "95%", share=True),
    Figure("`pd_parser` of reconstructions to the query", "pd_parser", "invert"),
    Figure("vehicles found again in reconstructions", "vehicle_recall", "invert", share=True),
    Figure("all objects found again in reconstructions", "object_recall", "invert", share=True),
    Figure("objects that vanish when their blob is removed", "blob_removes_object", "invert", share=True),
    Figure("other objects that stay then", "others_stay", "invert", share=True),
    Figure("decisions flipped: basic", "flip_rate", "explain basic", "99%", share=True),
    Figure("the same: targeted (appearance only)", "flip_rate", "explain targeted", share=True),
    Figure("the same: diverse (three counterfactuals each)", "flip_rate", "explain diverse", share=True),
    Figure("COUT, basic (over the whole image)", "cout", "evaluate"),
    Figure("blobs changed, basic", "changed_blobs", "evaluate"),
    Figure("generator: `fd_parser` of samples", "fd_parser", "evaluate", "3 times `fd_parser_real`"),
    Figure("`fd_parser_real`: of held-out real images", "fd_parser_real", "evaluate"),
    Figure("generator: precision", "precision", "evaluate"),
    Figure("generator: recall", "recall", "evaluate"),
    Figure("encoder of `w` (starts the published search only): same decision", "agreement", "encoder", share=True),
)
HEADLINES = (
    Figure("decisions that flip", "flip_rate", "evaluate", "99%", share=True),
    Figure("flips that an independent network shares (`witness_flip`)", "witness_flip", "evaluate", "97%", share=True),
    Figure("decisions truly flipped, where causes are known", "plain_ours_validity", "truth", "90%", share=True),
    Figure(
        "share of the true causes that the explanation changes", "plain_ours_cause_recall", "truth", "95%", share=True
    ),
)
SEARCHES = (
    Figure("processor seconds per image: inversion and four counterfactuals", "processor_seconds_per_picture"),
    Figure("seconds per image", "seconds_per_picture"),
    Figure("of these, inversion", "invert_seconds_per_picture"),
    Figure("of these, counterfactuals", "explain_seconds_per_picture"),
    Figure("images rendered per image, by the inversion", "invert_renderings_per_picture"),
    Figure("images rendered per image, by the counterfactuals", "explain_renderings_per_picture"),
    Figure("decisions flipped", "flip_rate", share=True),
    Figure("of these, shared by the witness", "witness_flip", share=True),
    Figure("perceptual distance (`pd_parser`) of counterfactuals to the photo", "perceptual"),
    Figure("the same of reconstructions", "reconstruction_perceptual"),
    Figure("weighted change of the blobs (`proximity`)", "proximity"),
    Figure("peak memory, GB", "peak_gigabytes"),
)
RATES = (
    Figure("ours: seconds per image, all images of `bench.images`", "fast_seconds_per_picture_of_many", "bench"),
    Figure("times as fast as the published search, by the clock", "ratio", "bench"),
    Figure("convolutions and matrix products of an explained image, GFLOP", "gigaflop_per_picture", "bench"),
    Figure("what the processor reaches, GFLOP/s", "peak_gigaflops", "bench"),
    Figure("seconds per image at this rate", "seconds_per_picture_at_peak", "bench"),
    Figure("share of this rate that is used", "share_of_peak", "bench", share=True),
    Figure("scenes rendered, images/s", "scenes_per_second", "bench"),
    Figure("training: parser, images/s", "parser_training_images_per_second", "bench"),
    Figure("training: decision model, images/s", "decision_training_images_per_second", "bench"),
    Figure("training: BlobGAN on segments, images/s", "blobgan_pretrain_training_images_per_second", "bench"),
    Figure("training: BlobGAN with a discriminator, images/s", "blobgan_training_images_per_second", "bench"),
    Figure("training: encoder, phase 1, images/s", "encoder_pretrain_training_images_per_second", "bench"),
    Figure("training: encoder, phase 2, images/s", "encoder_training_images_per_second", "bench"),
    Figure("features of the parser, images/s", "features_per_second", "bench"),
)
TRULY_FLIPPED = tuple(
    Figure(title, f"{method}_validity", goal="90%" if method == "ours" else "", share=True)
    for method, title in METHODS.items()
)
CAUSES = tuple(
    Figure(f"{title}: {METHODS[method]}", f"{method}_{name}", goal=goal if method == "ours" else "", share=True)
    for title, name, goal in (("recall", "cause_recall", "95%"), ("precision", "cause_precision", ""))
    for method in ("ours", OURS_SAME, "published")
)
SHORTCUTS = (
    Figure("rank by frequency: ours", "ours_rank", goal="1", total="ours_phrases"),
    Figure("rank by frequency: published search", "published_rank", total="published_phrases"),
    Figure("rank by effect: ours", "ours_effect_rank", goal="1", total="ours_interventions"),
    Figure("effect of its best phrase", "ours_effect"),
    Figure("explanations that name it", "ours_shortcut_share", share=True),
    Figure("the same of the plain model", "ours_honest_share", share=True),
    Figure("AUC over explanations", "ours_auc_explanations"),
    Figure("AUC over seeds", "ours_auc_seeds", goal="at least 0.95"),
)
REPAIRS = (
    Figure("images", "images"),
    Figure("wrong before", "wrong", share=True),
    Figure("worst group", "worst_group", share=True),
    Figure("gain", "gain"),
    Figure("accuracy", "accuracy", share=True),
)


@dataclass(frozen=True)
class Files:
    """Measures of the stages of a repository."""

    root: Path

    def measures(self, stage: str, setup: str, variant: str = "") -> Measures:
        """Return the measures of a stage, of which `decision` is that of all rules; empty if there are none."""
        if stage == "decision" and not variant:
            each = [self.measures(stage, setup, rule) for rule in RULES]
            accuracies = [value for found in each for name, value in found.items() if name.startswith("accuracy_")]
            return {"accuracy_lowest": min(accuracies)} if accuracies else {}
        stage, _, variant_of_stage = stage.partition(" ")
        folder = Path("models" if stage in IN_MODELS else "reports", stage, setup, variant or variant_of_stage)
        for find in (self._here, self._stored):
            for name in ("measures.json", "metrics.json"):  # the second holds headlines only, where there are both
                path = find(folder / name)
                if path:
                    return _read(path, folder / name)
        return {}

    def _here(self, path: Path) -> Path | None:
        return self.root / path if (self.root / path).is_file() else None

    def _stored(self, path: Path) -> Path | None:
        digest = self._locked.get(path.as_posix(), "")
        stored = self.root / "models/store/files/md5" / digest[:2] / digest[2:]
        return stored if digest and stored.is_file() else None

    @cached_property
    def _locked(self) -> dict[str, str]:
        lock = self.root / "dvc.lock"
        return dict(LOCKED.findall(lock.read_text(encoding="utf-8"))) if lock.is_file() else {}


def misses(goal: str, value: float, measures: Measures) -> bool:
    """Return whether a value misses its goal; goals in other words than those of `Figure` are never missed.

    >>> misses("97%", 0.96, {}), misses("0.3", 0.2, {}), misses("3 times `x`", 2.0, {"x": 0.5})
    (True, False, True)
    """
    relative = RELATIVE.fullmatch(goal)
    if relative:
        return value > int(relative[1]) * measures.get(relative[2], float("inf"))
    number = re.fullmatch(r"(at least )?([\d.]+)(%?)", goal)
    if not number:
        return False
    if number[3]:
        return value < float(number[2]) / 100
    return value < float(number[2]) if number[1] else value > float(number[2])


def by_setup(files: Files, figures: Sequence[Figure]) -> str:
    """Return figures as rows and setups as columns."""
    found = {(figure.stage, setup): files.measures(figure.stage, setup) for figure in figures for setup in SETUPS}
    rows = []
    for figure in figures:
        cells = [figure.text(found[figure.stage, setup]) for setup in SETUPS]
        if set(cells) != {UNKNOWN}:
            rows.append([figure.title, *cells, figure.goal])
    heads = ["measure", *(f"`{setup}`" for setup in SETUPS), "goal"]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return _table(heads, rows, [command(*key) for key, measures in found.items() if not measures])


def believable(files: Files) -> str:
    """Return the table of `make believable`, with missed goals in bold."""
    found = {stage: {setup: files.measures(stage, setup) for setup in SETUPS} for stage in ("evaluate", "truth")}
    rows, lines = {row.title: row for row in ROWS}, []
    for line in believable_lines(found):
        row, values = rows[line.title], dict(line.values)
        for setup, measures in found[row.stage].items():
            if row.name in measures and misses(line.goal, measures[row.name], measures):
                values[setup] = f"**{values[setup]}**"
        lines.append(replace(line, values=values))
    missing = [command(stage, setup) for stage in found for setup in SETUPS if not found[stage][setup]]
    return "\n\n".join(([markdown(lines)] if lines else []) + _not_measured(missing))


def truth(files: Files, figures: Sequence[Figure], rules: Sequence[str]) -> str:
    """Return models, of which each has a rule, as rows, and figures as columns."""
    rows, missing = [], []
    for setup in SETUPS:
        found = files.measures("truth", setup)
        missing += [] if found else [command("truth", setup)]
        for rule in rules:
            own = {name.removeprefix(f"{rule}_"): value for name, value in found.items() if name.startswith(f"{rule}_")}
            if own:
                rows.append([f"`{setup}`, {rule}", *(figure.text(own) for figure in figures)])
    goals = [f" (goal: {figure.goal})" if figure.goal else "" for figure in figures]
    heads = [figure.title + goal for figure, goal in zip(figures, goals, strict=True)]
    return _table(["model", *heads], rows, missing)


def repair(files: Files) -> str:
    """Return models and the images that they learnt from as rows."""
    rows, missing = [], []
    for setup in SETUPS:
        for rule in (name for name in RULES if name != PLAIN.name):
            found = files.measures("repair", setup, rule)
            missing += [] if found else [command("repair", f"{setup}-{rule}")]
            for method in (name.removesuffix("_worst_group") for name in found if name.endswith("_worst_group")):
                texts = [figure.text(found, f"{method}_{figure.name}") for figure in REPAIRS]
                rows.append([f"`{setup}`, {rule}", LEARNT_FROM.get(method, method), *texts])
    return _table(["model", "learnt from", *(figure.title for figure in REPAIRS)], rows, missing)


def searches(files: Files) -> str:
    """Return the search beside the published one, for each setup that has been measured."""
    found = {setup: files.measures("bench", setup) for setup in SETUPS}
    measured = [setup for setup in SETUPS if found[setup]]
    kinds = {"fast": "ours", "published": "published"}
    heads = [f"`{setup}`: {title}" for setup in measured for title in kinds.values()]
    rows = [
        [figure.title, *(figure.text(found[setup], f"{kind}_{figure.name}") for setup in measured for kind in kinds)]
        for figure in (SEARCHES if measured else ())
    ]
    return _table(["measure", *heads], rows, [command("bench", setup) for setup in SETUPS if not found[setup]])


BLOCKS: Mapping[str, Callable[[Files], str]] = {
    "headlines": lambda files: by_setup(files, HEADLINES),
    "networks": lambda files: by_setup(files, NETWORKS),
    "believable": believable,
    "truly-flipped": lambda files: truth(files, TRULY_FLIPPED, [*RULES, CONTROL]),
    "causes": lambda files: truth(files, CAUSES, [*RULES, CONTROL]),
    "shortcuts": lambda files: truth(files, SHORTCUTS, [name for name in RULES if name != PLAIN.name]),
    "repair": repair,
    "searches": searches,
    "rates": lambda files: by_setup(files, RATES),
}


def command(stage: str, name: str) -> str:
    """Return the command that measures a stage for a setup, or for setup and variant."""
    stage, _, variant = stage.partition(" ")
    assert not variant or variant in VARIANTS
    return f"make bench SETUP={name}" if stage == "bench" else f"dvc repro {stage}@{name}{variant and '-' + variant}"


def filled(text: str, files: Files) -> str:
    """Return a document with the content of all blocks renewed. BlobexError: a block is unknown or has no end."""

    def block(match: re.Match[str]) -> str:
        opening, name, content, end = match.groups()
        if OPENING in content:
            raise BlobexError(f"the block `{name}` has no `<!-- end -->`: add it")
        if name not in BLOCKS:
            raise BlobexError(f"there is no block `{name}`: name one of {', '.join(BLOCKS)}")
        return f"{opening}\n{BLOCKS[name](files)}\n\n{end}"

    new, count = BLOCK.subn(block, text)
    if text.count(OPENING) != count:
        raise BlobexError("a block of figures is not of the form `<!-- figures: NAME -->`, lines, `<!-- end -->`")
    return new


def outdated(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and new text of each document that disagrees with the measures."""
    files = Files(root)
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = path.read_text(encoding="utf-8")
        try:
            new = filled(text, files)
        except BlobexError as error:
            raise BlobexError(f"{path.relative_to(root)}: {sentence(error)}") from error
        if new != text:
            yield path, new


def main(check: bool, root: Path = ROOT) -> int:
    """Write the documents, or list those that differ; return the exit code."""
    changed = list(outdated(root))
    for path, text in changed:
        print(f"{path.relative_to(root)}: {'figures differ, run `make figures`' if check else 'written'}")
        if not check:
            write_text(path, text)
    return int(check and bool(changed))


def _rank(value: float | None, total: float | None, goal: str) -> str:
    if total is None:
        return UNKNOWN
    text = f"{'none' if value is None else f'{value:.0f}'} of {total:.0f}"
    return f"**{text}**" if goal and value != float(goal) else text


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], missing: Sequence[str]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, *rows)]
    lines.insert(1, "|" + "---|" * len(heads))
    return "\n\n".join((["\n".join(lines)] if rows else []) + _not_measured(missing))


def _not_measured(commands: Sequence[str]) -> list[str]:
    names = [f"`{name}`" for name in dict.fromkeys(commands)]
    return [f"Not measured: run {', '.join(names)}."] if names else []


def _read(path: Path, name: Path) -> Measures:
    try:
        return {key: float(value) for key, value in read_json(path).items() if isinstance(value, int | float)}
    except (ValueError, AttributeError) as error:
        raise BlobexError(f"{name} is damaged: run its stage again") from error


if __name__ == "__main__":
    try:
        if sys.argv[1:] not in ([], ["--check"]):
            raise BlobexError("give --check or nothing")
        sys.exit(main(sys.argv[1:] == ["--check"]))
    except (BlobexError, OSError) as error:
        sys.exit(f"blobex: {sentence(error)}")
