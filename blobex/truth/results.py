"""Results of the truth benchmark: about one model (cached, with an example sheet), and over all models and methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from blobex.core.code_state import code_digest
from blobex.core.errors import BlobexError
from blobex.core.files import read_json, whole_folder, write_text
from blobex.datasets.images import load_image, to_array, write_png
from blobex.explain.figures import Cell, Tone, grid
from blobex.explain.record_files import DAMAGES
from blobex.scenes.rules import PLAIN, RULES
from blobex.truth.effects import PhraseEffect
from blobex.truth.evaluation import EvaluatedAnswer
from blobex.truth.measures import Measures, Rank, detection, measures, rank
from blobex.truth.methods import Answer, Task

ROWS, EXAMPLES = "rows.json", "examples.png"
CODE = Path(__file__).with_name("benchmark.py")  # reaches all code that computes results
RowsByMethod = dict[str, list[EvaluatedAnswer]]
OURS_SAME = "ours_same"  # ours on the images of the published method, where those are fewer


@dataclass(frozen=True)
class ModelResults:
    """The evaluated answers about one model."""

    rows: dict[str, list[EvaluatedAnswer]]  # by method
    examples: np.ndarray  # uint8 (H,W,3)

    def write(self, folder: Path) -> None:
        """Write the results into a folder, whole or not at all."""
        with whole_folder(folder) as new:
            rows = {method: [row.as_dict() for row in answers] for method, answers in self.rows.items()}
            write_text(new / ROWS, json.dumps(rows))
            write_png(new / EXAMPLES, self.examples)

    @classmethod
    def read(cls, folder: Path) -> ModelResults:
        """Read results. Raises BlobexError or one of `record_files.DAMAGES` if they are missing or damaged."""
        rows = read_json(folder / ROWS)
        evaluated = {method: [EvaluatedAnswer(**row) for row in answers] for method, answers in rows.items()}
        return cls(evaluated, load_image(folder / EXAMPLES))


def load_or_compute(folder: Path, name: str, inputs: object, compute: Callable[[], ModelResults]) -> ModelResults:
    """Return cached results of a model, or compute and cache them if they are missing, damaged or outdated.

    `inputs` are everything that the results depend on besides the code, as JSON values.
    """
    digest = hashlib.sha256(json.dumps([inputs, code_digest(CODE)], sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}"
    with suppress(BlobexError, *DAMAGES):
        return ModelResults.read(path)
    results = compute()
    results.write(path)
    return results


@dataclass(frozen=True)
class TruthResults:
    """Evaluated answers and their measures by rule, and within a rule by method or OURS_SAME."""

    rows: dict[str, RowsByMethod]
    measures: dict[str, dict[str, Measures]]
    ranks: dict[str, dict[str, Rank]]
    examples: dict[str, np.ndarray]  # by rule, uint8 (H,W,3)
    effects: Mapping[str, Sequence[PhraseEffect]] = field(default_factory=dict)  # by rule; empty: not measured


def summarise(rows: dict[str, RowsByMethod], examples: dict[str, np.ndarray], seed: int) -> TruthResults:
    """Measure all methods on all models; each model with a shortcut is compared with the plain one.

    Models of other names than `scenes.rules.RULES` have no shortcut.
    """
    measured = {
        rule: {method: measures(answers, seed) for method, answers in methods.items()} for rule, methods in rows.items()
    }
    ranks: dict[str, dict[str, Rank]] = {rule: {} for rule in rows}
    for rule in [name for name in rows if name in RULES and name != PLAIN.name]:
        for method, answers in rows[rule].items():
            honest = rows[PLAIN.name][method]
            measured[rule][method] |= detection(answers, honest, rule)
            ranks[rule][method] = rank(answers, honest, rule)
    return TruthResults(rows, measured, ranks, examples)


def with_ours_on_same_images(rows: RowsByMethod) -> RowsByMethod:
    """Add OURS_SAME if the published method answered fewer questions than ours."""
    if "ours" not in rows or len(rows["ours"]) == len(rows.get("published", rows["ours"])):
        return rows
    images = {row.image for row in rows["published"]}
    return rows | {OURS_SAME: [row for row in rows["ours"] if row.image in images]}


def example_sheet(
    task: Task, answers: Mapping[str, Sequence[Answer]], rows: Mapping[str, Sequence[EvaluatedAnswer]], count: int
) -> np.ndarray:
    """Draw `count` questions that all methods answered, uint8 (H,W,3); those with the shortcut as a cause first.

    A green frame marks a valid counterfactual, a red frame one that flips the model alone, or neither.
    """
    fewest = min(rows.values(), key=len)
    order = sorted(range(len(fewest)), key=lambda number: (not fewest[number].planted, number))[:count]
    lines = []
    for number in order:
        query, row = to_array(task.queries[task.image_numbers[number]]), fewest[number]
        cells = [Cell(query, f"{Path(row.image).stem}\n{row.to_class}, please")]
        for method in answers:
            cells.append(_cell(answers[method][number], rows[method][number]))
        lines.append(cells)
    return grid(["query", *answers], lines)


def _cell(answer: Answer, row: EvaluatedAnswer) -> Cell:
    if not row.included:
        verdict = "reading disagrees about the query"
    elif row.valid:
        verdict = "truly so"
    else:
        verdict = "only the model says so" if row.flipped else "not flipped"
    tone: Tone = "plain" if not row.included else "good" if row.valid else "bad"
    return Cell(answer.after, f"{verdict}\n{'; '.join(row.phrases[:3]) or 'nothing seen to change'}", tone)
