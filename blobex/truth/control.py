"""Truth of explanations of a regression: what would make the control model brake by half, or less?

The plain rules stop from half the brake on, so that their causes are those of the answers, too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from blobex.config.explain import Truth
from blobex.counterfactual.questions import Questions
from blobex.counterfactual.ranges import Range
from blobex.counterfactual.target import AttributeTarget, RangeTarget
from blobex.explain.explainer import Explainer
from blobex.explain.input_images import InvertedImages
from blobex.explain.request import Request
from blobex.scenes.controls import CONTROLS, HALF
from blobex.scenes.rules import ACTIONS, PLAIN
from blobex.scenes.scene import Scene
from blobex.truth.evaluation import EvaluatedAnswer, ImageReader, evaluate_answers
from blobex.truth.methods import Answer, Task, answer_of
from blobex.truth.results import ModelResults, example_sheet

CONTROL = "control"  # name of the model among those of rules
BRAKE = CONTROLS.index("brake")
ROUGHLY = Range(HALF, math.inf), Range(-math.inf, HALF)  # asked of images below half the brake, and of others


def brake_questions(outputs: Tensor) -> Questions:
    """Ask of each image, given the controls (N,2), for at least half the brake, or at most half if there is more."""
    column = torch.full((len(outputs),), BRAKE, device=outputs.device)
    more, less = (RangeTarget.of(outputs, column, wanted.low, wanted.high) for wanted in ROUGHLY)
    below = outputs[:, BRAKE] < HALF
    target = RangeTarget(
        column, *(torch.where(below, getattr(more, key), getattr(less, key)) for key in ("low", "high", "gap"))
    )
    before = tuple(f"brake {value:.3g}" for value in outputs[:, BRAKE].tolist())
    after = tuple(ROUGHLY[0 if is_below else 1].words("brake") for is_below in below.tolist())
    index = torch.arange(len(outputs), device=outputs.device)
    return Questions(index, target, ("brake",) * len(outputs), before, after)


def control_results(
    explainer: Explainer,
    names: Sequence[str],
    queries: Tensor,
    scenes: Sequence[Scene],
    reader: ImageReader,
    options: Truth,
) -> ModelResults:
    """Explain the brake for queries (N,3,H,W) in [-1,1], and evaluate the answers by the plain rules."""
    questions, inversion = brake_questions(explainer.outputs(queries)), explainer.invert(queries)
    task = Task(explainer, None, tuple(names), queries, ("brake",), questions, inversion)
    answers = {"ours": _answers(task)}
    rows = {"ours": evaluate_brake(task, answers["ours"], scenes, reader, options)}
    return ModelResults(rows, example_sheet(task, answers, rows, options.examples))


def evaluate_brake(
    task: Task, answers: Sequence[Answer], scenes: Sequence[Scene], reader: ImageReader, options: Truth
) -> list[EvaluatedAnswer]:
    """Evaluate answers about the brake as those about the decision to stop; see `evaluate_answers`."""
    wanted = torch.isfinite(task.questions.target.low)  # type: ignore[attr-defined]  # at least half
    stop = torch.full_like(task.questions.image_index, ACTIONS.index("stop"))
    asked = dataclasses.replace(
        task.questions, target=AttributeTarget(stop, wanted), outputs=("stop",) * len(task.questions)
    )
    rows = evaluate_answers(dataclasses.replace(task, questions=asked), "ours", answers, scenes, PLAIN, reader, options)
    return [dataclasses.replace(row, rule=CONTROL, attribute="brake") for row in rows]


def _answers(task: Task) -> list[Answer]:
    explainer, questions = task.explainer, task.questions
    plan = explainer.plan(Request(["brake"], at_least=HALF, count=1, gate="report"))
    explanations = []
    for rows in torch.arange(len(task.queries)).split(explainer.batch_size):
        names = tuple(task.names[row] for row in rows.tolist())
        asked = dataclasses.replace(questions[rows], image_index=torch.arange(len(rows)).to(questions.image_index))
        batch = InvertedImages(names, task.queries[rows], task.inversion[rows])
        explanations += explainer.explain_batch(batch, plan, questions=asked)[0]
    return [answer_of(explanation) for explanation in explanations]
