"""Repair of one decision model by explanations in folders, labelled by a person or by a rule: `blobex repair`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import load_planted
from blobex.datasets.images import to_tensor
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.feedback import Feedback, image_digest, images_of, labels_of, read_feedback
from blobex.explain.results_folder import read_results
from blobex.networks import weights
from blobex.networks.decision import DecisionModel, load_decision
from blobex.scenes.rules import RULES, find_rule
from blobex.tracking.runs import newest_run
from blobex.tracking.tracker import Tracker
from blobex.training.decision import decision_measures
from blobex.training.repair import Corrections, fine_tune
from blobex.truth.evaluation import parser_reader
from blobex.truth.repair import decisions, labelled


@dataclass(frozen=True)
class RepairJob:
    """A model to repair, and where its corrections come from."""

    model: Path  # folder of the decision model
    results: tuple[Path, ...]  # folders of explanations of it
    feedback: tuple[Path, ...]  # files of answers; none: the rule labels
    rule: str | None  # rule that labels the explained images and the counterfactuals as the parser reads them


def trained_on(folder: Path) -> str:
    """Return the rule of the data that a decision model was trained on; BlobexError if it is not one of blobex."""
    if not weights.is_kind(folder, "decision"):
        raise BlobexError(
            f"{folder} is no decision model that blobex trained, so its training images are unknown: "
            "fine-tune it with blobex.training.repair.fine_tune and your own images"
        )
    rule = str(weights.read_config(folder, "decision").get("variant", ""))
    if rule not in RULES:
        raise BlobexError(f"{folder} does not say which data it was trained on: run `dvc repro decision` again")
    return rule


def corrections_of(job: RepairJob, params: Params, setup: str, models: Path) -> Corrections:
    """Collect the images to learn from and their labels.

    Raises:
        BlobexError: There are no explanations or no answers, or answers contradict each other.
    """
    if bool(job.feedback) == bool(job.rule):
        raise BlobexError("who says what is right? give either --feedback FILE or --rule plain")
    if job.rule:
        rule = find_rule(job.rule)
        records = [record for folder in job.results for record in read_results(folder) if record.flipped]
        if not records:
            raise BlobexError("there are no explanations to learn from: run `blobex explain` and give its folder")
        shown = {image_digest(record.query): record.query for record in records} | distinct(records)
        images = torch.stack([to_tensor(image) for image in shown.values()])
        return labelled(images, parser_reader(Explainer.load(setup, models, params, decision=str(job.model)), rule))
    known = distinct([record for folder in job.results for record in read_results(folder)])
    return answered(read_feedback(job.feedback), known, load_decision(job.model).output_names)


def distinct(records: Sequence[Explanation]) -> dict[str, np.ndarray]:
    """Return the changed image of each explanation by its digest."""
    return {image_digest(record.counterfactual): record.counterfactual for record in records}


def answered(answers: Sequence[Feedback], known: dict[str, np.ndarray], outputs: Sequence[str]) -> Corrections:
    """Return the images that a person answered about, with a label of the output in question and NaN for the others."""
    labels, images = labels_of(answers), images_of([each for each in answers if each.label is not None], known)
    rows = {digest: torch.full((len(outputs),), float("nan")) for digest in images}
    for (digest, output), label in labels.items():
        if output not in outputs:
            raise BlobexError(f"an answer is about {output[:40]!r}, but the model decides {', '.join(outputs)}")
        rows[digest][outputs.index(output)] = float(label)
    sizes = {image.shape for image in images.values()}
    if len(sizes) > 1:
        raise BlobexError("the answers are about images of several sizes: give those of one setup")
    return Corrections(torch.stack([to_tensor(image) for image in images.values()]), torch.stack(list(rows.values())))


def repair_model(
    job: RepairJob, corrections: Corrections, params: Params, setup: str, out: Path, tracker: Tracker
) -> tuple[DecisionModel, dict[str, float]]:
    """Repair a model; return it, and its measures. Only checkpoints are written, in `out`.

    Measures are the number of `images`, the shares `agrees_before` and `agrees` of their known labels that the model
    follows, and its accuracy about the validation images by the labels that it was trained with.
    """
    variant, options, device = trained_on(job.model), params.repair, resolve_device(params.run.device)
    model = load_decision(job.model)
    if tuple(corrections.images.shape[2:]) != (model.config["height"], model.config["width"]):
        raise BlobexError(f"the explanations are not of the size of {job.model}'s images: give its setup")
    # A rule is asked because the labels of the training images are wrong; a person's answers are few.
    training_set = load_planted(params, setup, "train", variant) if options.replay and not job.rule else None
    held_out = load_planted(params, setup, "val", variant)

    def measured(suffix: str) -> dict[str, float]:
        known = ~corrections.labels.isnan()
        wrong = corrections.wrong(decisions(model.to(device), corrections.images))
        accuracy = decision_measures(model, held_out, options.training.batch_size)["accuracy"]
        return {f"agrees{suffix}": 1 - float(wrong.sum() / known.sum()), f"accuracy{suffix}": accuracy}

    before = measured("_before")
    model.cpu()
    fine_tune(model, corrections, training_set, options, params.run, out / "checkpoints", tracker)
    weights.shorten(model)
    return model, {"images": float(len(corrections)), **before, **measured("")}


def run_of(job: RepairJob, params: Params) -> str:
    """Return the run of the stage `explain` that made the explanations, or the names of their folders and files."""
    for folder in job.results:
        stage, setup, variant, name = ("", "", "", "", *folder.resolve().parts)[-4:]
        if (stage, name) == ("explain", "results") and (run_id := newest_run(params, stage, setup, variant)):
            return run_id
    return ", ".join(map(str, (*job.results, *job.feedback)))
