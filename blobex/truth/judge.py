"""Every answer as a row of the table: whether it is true, and about what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blobex.config.evaluation import Truth
from blobex.counterfactual.target import AttributeTarget
from blobex.datasets.images import to_array
from blobex.scenes.rules import Rule
from blobex.scenes.scene import Scene
from blobex.truth.causes import cause_masks, cause_precision, cause_recall, change_map
from blobex.truth.reader import Reader, phrases
from blobex.truth.task import Answer, Task


@dataclass(frozen=True)
class Row:
    """One answer of one method to one question, measured. What does not apply is None."""

    rule: str
    method: str
    image: str
    attribute: str
    to_class: str  # what the model should say: the attribute, or "not" before it
    flipped: bool
    included: bool  # whether model and reading agree about the query: if not, validity means nothing
    valid: bool | None  # included: the model's decision flipped, and so did what the rule says of the picture
    recall: float | None  # flipped, refused -> allowed: the share of the true causes that the change touches
    precision: float | None  # the same explanations: the share of the change that lies on the true causes
    agrees: bool | None  # whether the reconstruction is decided as the query is
    planted: bool  # whether the shortcut is one of the true causes
    phrases: list[str]  # what changed, in general words

    @property
    def to_allowed(self) -> bool:
        """Whether the question is how something refused would be allowed: for stop, how it would not be."""
        return (self.attribute == "stop") == self.to_class.startswith("not ")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    task: Task,
    method: str,
    answers: Sequence[Answer],
    scenes: Sequence[Scene],
    rule: Rule,
    reader: Reader,
    options: Truth,
) -> list[Row]:
    """One row per answer; `scenes` are those behind the pictures.

    A cause can be touched only where there is one: in questions that ask for what the true scene refuses (for stop, the
    other way round: it has causes where it is true).
    """
    target = task.questions.target
    assert isinstance(target, AttributeTarget)
    queries = reader([to_array(query) for query in task.queries])
    seen = reader([picture for answer in answers for picture in (answer.before, answer.after)])
    rows = []
    for number, (answer, index) in enumerate(zip(answers, task.pictures, strict=True)):
        attribute, wanted = task.questions.outputs[number], bool(target.wanted[number])
        before, after = seen[2 * number : 2 * number + 2]
        included = queries[index].allowed[attribute] != wanted
        causes = rule.causes(scenes[index], attribute) if wanted != (attribute == "stop") else frozenset()
        recall, precision = _about(answer, scenes[index], causes, options) if answer.flipped else (None, None)
        rows.append(
            Row(
                rule=rule.name,
                method=method,
                image=task.names[index],
                attribute=attribute,
                to_class=task.questions.after[number],
                flipped=answer.flipped,
                included=included,
                valid=(answer.flipped and after.allowed[attribute] == wanted) if included else None,
                recall=recall,
                precision=precision,
                agrees=answer.agrees,
                planted=attribute in rule.refuses and bool(rule.shortcut(scenes[index]) & causes),
                phrases=phrases(before, after),
            )
        )
    return rows


def _about(answer: Answer, scene: Scene, causes: frozenset[Any], options: Truth) -> tuple[float | None, float | None]:
    """Cause recall and precision of one answer."""
    height, width = answer.after.shape[:2]
    change = change_map(answer.before, answer.after)
    essence, whole = (cause_masks(scene, causes, height, width, part) for part in (True, False))
    return cause_recall(change, essence, options.touched), cause_precision(change, whole, options.dilation)
