"""Evaluation of answers: is the decision flipped for the rule, too, and does the change concern its causes?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from blobex.config.explain import Truth
from blobex.counterfactual.target import AttributeTarget
from blobex.datasets.images import to_array
from blobex.scenes.rules import Cause, Rule
from blobex.scenes.scene import Scene
from blobex.truth.causes import cause_masks, cause_precision, cause_recall, change_map
from blobex.truth.reader import ImageReader, change_phrases
from blobex.truth.task import Answer, Task


@dataclass(frozen=True)
class EvaluatedAnswer:
    """A row of explanations.parquet: one method's answer to one question. Fields that do not apply are None."""

    rule: str
    method: str
    image: str
    attribute: str
    to_class: str  # the wanted decision: the attribute, with "not " in front if negated
    flipped: bool
    included: bool  # model and rule agree about the query; validity is undefined otherwise
    valid: bool | None  # if included: the decisions of model and rule are both flipped
    recall: float | None  # share of the true causes that the change touches; flips from refused to allowed only
    precision: float | None  # share of the change that lies on the true causes; the same flips
    agrees: bool | None  # the model decides the reconstruction as the query
    planted: bool  # the shortcut is one of the true causes
    phrases: list[str]  # the changes, in general words

    @property
    def to_allowed(self) -> bool:
        """True if the question asks to allow something refused; "stop" counts as a refusal."""
        return (self.attribute == "stop") == self.to_class.startswith("not ")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_answers(
    task: Task,
    method: str,
    answers: Sequence[Answer],
    scenes: Sequence[Scene],
    rule: Rule,
    reader: ImageReader,
    options: Truth,
) -> list[EvaluatedAnswer]:
    """Evaluate the answers of one method; `scenes` are those of the task's images.

    Causes exist only where the scene refuses an action (for "stop": where it demands it), so recall and precision are
    those of questions that ask for the opposite.
    """
    target = task.questions.target
    assert isinstance(target, AttributeTarget)
    queries = reader([to_array(query) for query in task.queries])
    images = reader([image for answer in answers for image in (answer.before, answer.after)])
    evaluated = []
    for number, (answer, index) in enumerate(zip(answers, task.image_numbers, strict=True)):
        attribute, wanted = task.questions.outputs[number], bool(target.wanted[number])
        before, after = images[2 * number : 2 * number + 2]
        included = queries[index].allowed[attribute] != wanted
        causes = rule.causes(scenes[index], attribute) if wanted != (attribute == "stop") else frozenset()
        recall, precision = _recall_precision(answer, scenes[index], causes, options)
        evaluated.append(
            EvaluatedAnswer(
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
                phrases=change_phrases(before, after),
            )
        )
    return evaluated


def _recall_precision(
    answer: Answer, scene: Scene, causes: frozenset[Cause], options: Truth
) -> tuple[float | None, float | None]:
    if not answer.flipped:
        return None, None
    height, width = answer.after.shape[:2]
    change = change_map(answer.before, answer.after)
    essential, whole = (cause_masks(scene, causes, height, width, essential) for essential in (True, False))
    return cause_recall(change, essential, options.touched), cause_precision(change, whole, options.dilation)
