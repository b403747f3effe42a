"""The truth benchmark: all methods on the same held-out images, about models with and without a planted shortcut."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from blobex.config.data import ImageSizes
from blobex.config.explain import Explain, Invert, Truth
from blobex.config.params import Params
from blobex.config.training import Resume
from blobex.core.device import ALONE, Ranks
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import explained_paths, load_image_files, load_planted
from blobex.datasets.images import to_float
from blobex.explain.believable import Decide
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.networks import weights
from blobex.scenes.controls import HALF
from blobex.scenes.rules import PLAIN, RULES, Rule
from blobex.scenes.scene import Scene
from blobex.scenes.write import scene_of
from blobex.tracking.tracker import NullTracker
from blobex.training.decision import DecisionModule
from blobex.training.fit import fit
from blobex.training.step_module import derive_seed, sample_batches
from blobex.truth.control import CONTROL, control_results
from blobex.truth.evaluation import ImageReader, evaluate_answers, parser_reader
from blobex.truth.measures import detection_over_seeds
from blobex.truth.methods import METHODS, Task, build_task
from blobex.truth.results import (
    ModelResults,
    TruthResults,
    example_sheet,
    load_or_compute,
    summarise,
    with_ours_on_same_images,
)


@dataclass(frozen=True)
class Witness:
    """A decision witness, loaded only after a search."""

    digest: str  # of its weights
    load: Callable[[str], Decide]  # by the name of a rule


@dataclass(frozen=True)
class HeldOutImages:
    """Images that no network was trained on, and their scenes."""

    names: tuple[str, ...]
    queries: Tensor  # N,3,H,W in [-1,1]
    scenes: tuple[Scene, ...]


def benchmark(
    params: Params, setup: str, models: Path, ranks: Ranks = ALONE, witness: Witness | None = None
) -> TruthResults:
    """Evaluate the models in `models`/decision/<setup>/<rule>, with several seeds small ones, and models/control.

    Small models are trained into `models`/truth/<setup>. Results about each model are cached in `cache_folder`, so a
    stopped benchmark resumes. The models are shared among `ranks`; each rank returns all results.

    Raises:
        BlobexError: if images are not synthetic scenes or networks are missing.
    """
    params.setup(setup)
    options, seed = params.truth, params.run.seed
    if options.seeds > 1 and "ours" not in options.methods:
        raise BlobexError("truth.seeds explains small models with the method ours: add it to truth.methods")
    rules = [PLAIN, *(RULES[name] for name in options.rules)]
    for rule in rules:
        _trained_model(models, setup, rule)
    numbers = range(options.seeds if options.seeds > 1 else 0)
    jobs = [(rule.name, number) for number in (None, *numbers) for rule in rules]
    if _control_model(models, setup).is_dir():
        jobs.append((CONTROL, None))
    own = [job for place, job in enumerate(jobs) if ranks.has(place)]
    share = [(job, model_results(params, setup, models, *job, witness)) for job in own]
    by_job = dict(ranks.gather(share))
    rows = {rule.name: with_ours_on_same_images(by_job[rule.name, None].rows) for rule in rules}
    examples = {rule.name: by_job[rule.name, None].examples for rule in rules}
    if (CONTROL, None) in by_job:
        rows[CONTROL], examples[CONTROL] = by_job[CONTROL, None].rows, by_job[CONTROL, None].examples
    results = summarise(rows, examples, seed)
    small = {rule.name: [by_job[rule.name, number].rows["ours"] for number in numbers] for rule in rules}
    for rule in rules[1:] if numbers else ():
        over_seeds = detection_over_seeds(small[rule.name], small[PLAIN.name], rule.name)
        results.measures[rule.name].setdefault("ours", {}).update(over_seeds)
    return results


def cache_folder(models: Path, setup: str) -> Path:
    """Return the folder of results about single models, which are removed once all are written."""
    return models / "truth" / setup / "parts"


def model_results(
    params: Params, setup: str, models: Path, rule_name: str, number: int | None, witness: Witness | None = None
) -> ModelResults:
    """Evaluate all methods on a rule's model, our search on small model `number` of a rule, or on the control model."""
    if rule_name == CONTROL:
        return _control_results(params, setup, models)
    options, rule = params.truth, RULES[rule_name]
    if number is None:
        model, count = _trained_model(models, setup, rule), options.images
    else:
        folder = models / "truth" / setup / f"{rule_name}_{number}"
        model, count = train_small_model(params, setup, rule_name, number, folder), options.seed_images
        options = dataclasses.replace(options, methods=["ours"])
    explainer, images = Explainer.load(setup, models, params, decision=str(model)), held_out(params, setup, count)

    def compute() -> ModelResults:
        with_published = "published" in options.methods
        published = Explainer.load(setup, models, params.published(), decision=str(model)) if with_published else None
        task = build_task(explainer, published, images.names, images.queries, params.explain.attributes)
        load = None if witness is None else partial(witness.load, rule_name)
        return evaluate_methods(task, images.scenes, rule, parser_reader(explainer, rule), options, load)

    settings = explainer.settings(explainer.plan(Request(params.explain.attributes, count=1, gate="report")))
    searches = _of_setup(params.explain, setup), _of_setup(params.invert, setup), params.data.external, options
    pixels = hashlib.sha256(images.queries.numpy().tobytes()).hexdigest()
    inputs = [rule_name, settings, str(searches), images.names, pixels, witness.digest if witness else None]
    return load_or_compute(cache_folder(models, setup), rule_name if number is None else model.name, inputs, compute)


def _control_model(models: Path, setup: str) -> Path:
    return models / CONTROL / setup


def _control_results(params: Params, setup: str, models: Path) -> ModelResults:
    explainer = Explainer.load(setup, models, params, decision=str(_control_model(models, setup)))
    images = held_out(params, setup, params.truth.images)
    settings = explainer.settings(explainer.plan(Request(["brake"], at_least=HALF, count=1, gate="report")))
    pixels = hashlib.sha256(images.queries.numpy().tobytes()).hexdigest()
    searches = _of_setup(params.explain, setup), _of_setup(params.invert, setup), params.data.external, params.truth
    inputs = [CONTROL, settings, str(searches), images.names, pixels]

    def compute() -> ModelResults:
        reader = parser_reader(explainer, PLAIN)
        return control_results(explainer, images.names, images.queries, images.scenes, reader, params.truth)

    return load_or_compute(cache_folder(models, setup), CONTROL, inputs, compute)


def evaluate_methods(
    task: Task,
    scenes: Sequence[Scene],
    rule: Rule,
    reader: ImageReader,
    options: Truth,
    load_witness: Callable[[], Decide] | None = None,
) -> ModelResults:
    """Answer the task with each of `options.methods`, then evaluate the answers, with the witness that is loaded now.

    The published method is slow: it answers the questions about the first `options.published_images` only.
    """
    tasks: dict[str, Task] = dict.fromkeys(options.methods, task)
    if "published" in tasks:
        tasks["published"] = task.first(options.published_images)
    answers = {method: METHODS[method](questions, options) for method, questions in tasks.items()}
    decide = None if load_witness is None else load_witness()
    rows = {
        method: evaluate_answers(questions, method, answers[method], scenes, rule, reader, options, decide)
        for method, questions in tasks.items()
    }
    return ModelResults(rows, example_sheet(task, answers, rows, options.examples))


def held_out(params: Params, setup: str, count: int) -> HeldOutImages:
    """Load the first `count` held-out images. BlobexError: they are not synthetic scenes."""
    paths = explained_paths(params)[:count]
    scenes = tuple(scene_of(path) for path in paths)
    images = load_image_files(params, setup, paths, "truth")
    return HeldOutImages(tuple(map(str, paths)), to_float(images.images), scenes)


def _of_setup(section: Explain | Invert, setup: str) -> dict[str, object]:
    """Return a section without the parameters of other setups."""
    others = {field.name for field in dataclasses.fields(ImageSizes)} - {setup}
    names = [field.name for field in dataclasses.fields(section) if field.name not in others]
    return {name: getattr(section, name) for name in names}


def _trained_model(models: Path, setup: str, rule: Rule) -> Path:
    folder = models / "decision" / setup / rule.name
    if not folder.is_dir():
        raise BlobexError(f"there is no {folder}: run `python -m blobex.stages.decision {setup} {rule.name}` first")
    return folder


def train_small_model(params: Params, setup: str, rule: str, number: int, folder: Path) -> Path:
    """Train small model `number` of a rule into `folder`, which is returned; a stopped training resumes.

    All randomness derives from run.seed and the number, so model 0 of every rule has the same initial weights.
    """
    resume = Resume("last", None, None)
    training = dataclasses.replace(params.decision.training, steps=params.truth.seed_steps, resume=resume)
    seed = derive_seed(params.run.seed, number) % 2**31
    small = dataclasses.replace(params.decision, architecture="densenet_small", training=training)
    data = load_planted(params, setup, "train", rule)
    module = DecisionModule(small, params.setup(setup), data, seed)
    batches = sample_batches((data.images, data.actions), len(data.images), training, seed)
    one_device = dataclasses.replace(params.run, devices=1)
    fit(module, batches, training, one_device, folder / "checkpoints", NullTracker())
    weights.save(folder, "decision", {"setup": setup, "variant": rule, **module.model.config}, module.model)
    return folder
