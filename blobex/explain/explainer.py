"""Public interface: counterfactual explanations of a decision model's outputs.

explainer = Explainer.load("rect")
for explanation in explainer.explain(["photo.jpg"], Request(attributes=["stop"]), out="explained"):
    print(explanation.sentence)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.config.value_types import Shape
from blobex.core.device import ALONE, Ranks, batch_pixels, keep_freed_memory, resolve_device
from blobex.core.errors import BlobexError
from blobex.core.reference_networks import check_setup, checked_params, trained
from blobex.counterfactual.masks import check_mask_rows
from blobex.counterfactual.object_examples import ObjectExamples
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import published_settings, search_published
from blobex.counterfactual.questions import Questions, build_questions, check_range, check_region
from blobex.counterfactual.ranges import asked_range
from blobex.counterfactual.search import SearchOptions, search
from blobex.counterfactual.verify import Counterfactuals
from blobex.datasets.images import to_float, to_tensor
from blobex.decisions.decision import Decision, frozen_eval, output_index, output_indices
from blobex.decisions.identity import identify
from blobex.decisions.load import Model
from blobex.explain.changeable import layout_masks, listed_masks
from blobex.explain.explanation import (
    Explanation,
    GateResult,
    add_failures,
    add_sentences,
    build_explanations,
    check_reconstructions,
)
from blobex.explain.foreign import Foreign
from blobex.explain.input_images import Image, ImageShare, InvertedImages, Sources, load_images
from blobex.explain.kept_inversions import KeptInversions
from blobex.explain.loading import load_networks
from blobex.explain.overviews import films
from blobex.explain.request import Output, Plan, Request, as_published, make_plan
from blobex.explain.result_settings import decision_settings, result_settings
from blobex.explain.results_folder import Explained, ResultsFolder
from blobex.explain.steps import Walker, add_steps
from blobex.inversion.inversion import Inversion
from blobex.inversion.invert import invert
from blobex.inversion.published import invert_published
from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm
from blobex.networks.parser import Parser, ParserOutput
from blobex.optim.batching import float32_batch_size, in_batches
from blobex.optim.network_callables import NetworkPair, Networks
from blobex.perception.objects import read_scenes
from blobex.perception.reading import SceneReading
from blobex.perception.regions import is_name, region_mask


@dataclass(frozen=True)
class Explainer:
    """Networks and parameters of one setup, ready to explain images."""

    setup: str
    params: Params
    device: torch.device
    decision: Decision  # the model to explain
    exact: Networks  # float32, on `device`: evaluates results
    quick: Networks  # fastest precision of `device`: optimises
    blobs: int  # of a layout, without the background
    weights: dict[str, str] = field(default_factory=dict)  # SHA-256 of each network's weights
    parser: Parser | None = None  # finds named objects and describes changes
    examples: ObjectExamples | None = None  # objects tried before gradients
    foreign: Foreign | None = None  # tells which images show no road scene

    @classmethod
    def load(
        cls,
        setup: str = "rect",
        models: str | Path = "models",
        params: str | Path | Params = "params.yaml",
        device: str | None = None,
        decision: str | Decision | Model | None = None,
    ) -> Explainer:
        """Load the trained networks of a setup.

        Args:
            setup: square or rect.
            models: Folder of the trained networks; if it is absent here, that of the project above the current folder
                or, without a project, that of `blobex pull` or of the wheel.
            params: Parameters, or the file that holds them, found in the same way.
            device: auto, cpu or cuda; None: run.device of the parameters.
            decision: Model to explain, as `blobex.decisions.load.load` takes it: plain, biased, a card, a file, a URI,
                or any callable from images (N,3,H,W) in [-1,1] to logits; None: explain.decision of the parameters.

        Raises:
            BlobexError: Networks are missing or belong to another setup, the decision model cannot be used, or the
                parameters contradict each other.
        """
        values = params if isinstance(params, Params) else load_params(checked_params(trained(params)))
        if values.search.mode == "fast":
            keep_freed_memory()
        target = resolve_device(device or values.run.device)
        if values.search.mode == "published" and values.invert.start != "encoder":
            raise BlobexError("the published search starts at the encoder's layout: set invert.start to encoder")
        model = values.explain.decision if decision is None else decision
        folder = trained(models)
        check_setup(folder, setup)
        return cls(setup, values, target, **vars(load_networks(setup, folder, values, target, model)))

    @property
    def published(self) -> bool:
        """True if inversion and search are the published ones, as a baseline (OCTET, Zemni et al., CVPR 2023)."""
        return self.params.search.mode == "published"

    def plan(self, request: Request) -> Plan:
        """Check a request against the model and the parameters, and fill in what it leaves open.

        Raises:
            BlobexError: The request names an unknown output, key, blob or region, a value is out of range, or the
                search mode does not support it.
        """
        check_region(self.decision.kind, request.region, request.replaced)
        check_range(self.decision.kind, asked_range(request.at_least, request.at_most, request.between))
        columns = output_indices(self.decision, request.attributes)
        replaced = None if request.replaced is None else output_index(self.decision, request.replaced)
        plan = make_plan(request, columns, replaced, self.params.explain, cast(Shape, self.setup))
        plan = as_published(plan) if self.published else plan
        only = request.only
        if only is None:
            listed_masks(plan, self.blobs)
        elif self.parser is None or not is_name(only):  # names of objects need the images
            size = self.params.setup(self.setup)
            region_mask(only, size.height, size.width)
        return plan

    def plan_images(self, images: Image | Sequence[Image], request: Request) -> tuple[Plan, Sources]:
        """Return the plan of a request about images, and their list; BlobexError if they do not fit each other."""
        plan, sources = self.plan(request), Sources.of(images)
        if request.only is None:
            check_mask_rows(listed_masks(plan, self.blobs), len(sources))
        return plan, sources

    def explain(
        self,
        images: Image | Sequence[Image],
        request: Request | None = None,
        out: str | Path | Output | None = None,
        ranks: Ranks = ALONE,
    ) -> list[Explanation]:
        """Explain images: one explanation per image, question and counterfactual, in that order.

        Args:
            images: Files of any size, folders, or uint8 arrays (H,W) or (H,W,3); cropped about the centre and resized.
                Explanations of images that show no road scene or are too small, flat or narrow have a `doubt`.
            request: What to explain, what may change, and how to search; None: the defaults of `Request`.
            out: Folder for the results. They are written image by image; an interrupted run continues there.
            ranks: Processes that share the images. All write to `out`, and the first returns all explanations, the
                others none.

        Raises:
            BlobexError: An image cannot be read, the request is invalid, or `out` holds other files, or results of
                other settings, or of a model that cannot be identified, without `Output.replace`.
        """
        output = Output(out) if isinstance(out, str | Path) else out
        if output is None and ranks.size > 1:
            raise BlobexError("several processes need a folder for the results: give out")
        plan, sources = self.plan_images(images, request or Request())
        size = self.params.setup(self.setup)
        share = sources.load(list(filter(ranks.has, range(len(sources)))), size.height, size.width, self.foreign)
        sources.check_readable(ranks.gather(share.numbers.tolist()))
        settled = self.settled(share.queries, plan)
        folder = None if output is None else ResultsFolder.open(output, self.settings(plan, output.gif), ranks)
        return self.explain_inverted(share, self.inverter(share, settled, folder), plan, output, ranks, folder)

    def explain_inverted(
        self,
        images: ImageShare,
        inversion: Callable[[Tensor], Inversion],
        plan: Plan,
        output: Output | None = None,
        ranks: Ranks = ALONE,
        folder: ResultsFolder | None = None,
    ) -> list[Explanation]:
        """Explain this process's share of the images as `explain` does, with `inversion` of positions (n,) in it.

        `folder` is that of the output, if it is open already.
        """
        explain = partial(self.explain_each, images, inversion, plan, bool(output and output.gif))
        if output is None:
            return [record for _, records, _ in explain(range(len(images))) for record in records]
        folder = folder or ResultsFolder.open(output, self.settings(plan, output.gif), ranks)
        folder.fill(images, explain)
        numbered = sorted(ranks.gather(images.numbered))
        folder.finish(numbered, output.published, ranks)
        return list(folder.read(numbered if ranks.first else ()))

    def explain_each(
        self,
        images: ImageShare,
        inversion: Callable[[Tensor], Inversion],
        plan: Plan,
        gif: bool,
        rows: Sequence[int],
    ) -> Iterator[Explained]:
        """Explain the images `rows` of a share batch by batch, with `inversion` of positions (n,) in it."""
        for part in torch.tensor(rows).long().split(self.batch_size) if rows else ():
            numbers, queries = images.numbers[part], images.queries[part]
            batch = InvertedImages(images.named(part), queries, inversion(part))
            explanations, frames = self.explain_batch(batch, plan.for_images(numbers), gif)
            count = len(explanations) // len(part)  # per image
            for place, row in enumerate(part.tolist()):
                own, doubt = slice(place * count, (place + 1) * count), images.doubt(row)
                yield row, [dataclasses.replace(record, doubt=doubt) for record in explanations[own]], frames[own]

    def explain_batch(
        self, images: InvertedImages, plan: Plan, gif: bool = False, questions: Questions | None = None
    ) -> tuple[list[Explanation], list[list[np.ndarray]]]:
        """Explain inverted images; return explanations and, with `gif`, the frames of each one's animation.

        Args:
            questions: Some of `self.questions`; None: all of them.
        """
        images = images.to(self.device)
        if questions is None:
            questions = self.questions(self.questioned(images.queries, images.inversion.layout), plan)
        gate = self._gate(questions, images, plan)
        if plan.gate.action == "refine" and any(gate.reasons):
            index, inversion = questions.image_index[gate.refused].unique(), images.inversion
            again = self.invert(images.queries[index], inversion.layout[index], plan.gate.refine_steps)
            images = dataclasses.replace(images, inversion=inversion.replaced(index, again))
            gate = self._gate(questions, images, plan)
        masks = layout_masks(plan, images, self.exact.scores, self.parser, self._rows)
        skip = gate.skipped | questions.settled
        counterfactuals = self.search(images.queries, images.inversion.layout, questions, masks, plan, skip)
        compose, published = plan.compose, self.published
        records = build_explanations(self.setup, images, questions, counterfactuals, gate, compose, published)
        if not published:
            records = add_steps(records, questions, Walker(images, self.exact, self.decision, self._rows))
        if self.parser is not None:
            records = add_sentences(records, self.readings)
        records = add_failures(records, self.decision.name)
        return records, films(images, counterfactuals, self.exact, compose == "photo", self._rows) if gif else []

    def questioned(self, queries: Tensor, layout: BlobLayout) -> Tensor:
        """Return the images in question: queries (N,3,H,W), or as published the renderings of their layouts."""
        if not self.published:
            return queries
        form = VectorForm.of(layout)
        with torch.no_grad():
            rendered = in_batches(
                lambda part: {"images": self.exact.render(form.unflatten(part))}, self._rows, form.flatten(layout)
            )
        return rendered["images"]

    def questions(self, images: Tensor, plan: Plan) -> Questions:
        """Return the questions about images (N,3,H,W), about [-1,1]: the same number about each."""
        model, outputs, region = self.decision, self.outputs(images), plan.request.region
        return build_questions(model.kind, model.outputs, outputs, plan.columns, region, plan.replaced, plan.wanted)

    def settled(self, images: Tensor, plan: Plan) -> Tensor:
        """Return bool (N,): true where nothing is to be searched, as all questions are answered by the image itself.

        A published search asks about reconstructions, which are not known yet. BlobexError for a question that no image
        can answer.
        """
        if self.published or not len(images):
            return torch.zeros(len(images), dtype=torch.bool)
        parts = [self.questions(part, plan).settled.unflatten(0, (len(part), -1)) for part in images.split(self._rows)]
        return torch.cat([part.all(1) for part in parts])

    def outputs(self, images: Tensor) -> Tensor:
        """Compute the model's outputs (N,A), or (N,A,H,W) for segmentation, of images (N,3,H,W) in [-1,1]."""
        with frozen_eval(self.decision), torch.no_grad():
            decide = self.exact.decide
            return in_batches(lambda part: {"outputs": decide(part)}, self._rows, images.to(self.device))["outputs"]

    def invert(self, queries: Tensor, start: BlobLayout | None = None, steps: int | None = None) -> Inversion:
        """Invert images (N,3,H,W) in [-1,1].

        Args:
            start: Layouts to start from; None: those of the encoder. The published inversion always takes those.
            steps: Number of steps; None: that of the parameters.
        """
        queries, params = queries.to(self.device), self.params.invert
        inversion = params.square if self.setup == "square" else params.rect
        if steps is not None:
            inversion = dataclasses.replace(inversion, steps=steps)
        with frozen_eval(self.decision):
            if self.published:
                return invert_published(queries, self.exact)
            return invert(queries, NetworkPair(self.quick, self.exact), inversion, self.batch_size, start)

    def inverter(
        self, images: ImageShare, settled: Tensor, folder: ResultsFolder | None
    ) -> Callable[[Tensor], Inversion]:
        """Return the inversion of positions (n,) in a share, `settled` (N,) as above; the folder keeps its results."""
        kept = KeptInversions(folder, self.device, lambda queries, steps: self.invert(queries, None, steps))
        return lambda rows: kept.invert(images.numbers[rows].tolist(), images.queries[rows], settled[rows])

    def search(
        self,
        queries: Tensor,
        start: BlobLayout,
        questions: Questions,
        allowed: Mapping[str, Tensor],
        plan: Plan,
        skip: Tensor | None = None,
    ) -> Counterfactuals:
        """Search the counterfactuals of inverted images for all questions but those to `skip`, bool (P,)."""
        index, target, lambda_key = questions.image_index, questions.target, plan.search.lambda_key
        problems = Problems.of(queries, start, index, target, allowed, lambda_key)
        options = SearchOptions(plan.variant.few, plan.variant.count, plan.photo, self.params.run.seed)
        networks = NetworkPair(self.quick, self.exact)
        with frozen_eval(self.decision):
            if self.published:
                settings = published_settings(plan.request.variant, options.count, options.seed)
                return search_published(problems, self.exact, settings)
            return search(problems, networks, plan.search, self.batch_size, options, skip, self.examples)

    def readings(self, images: Sequence[np.ndarray]) -> list[SceneReading]:
        """Return what the parser sees in images, uint8 (H,W,3); BlobexError without a parser."""
        if self.parser is None:
            raise BlobexError(f"there is no parser for {self.setup}: run `dvc repro parser@{self.setup}` first")
        parser, batch = self.parser, torch.stack([to_tensor(image) for image in images])
        with torch.no_grad():
            seen = in_batches(lambda part: vars(parser(to_float(part))), self._rows, batch.to(self.device))
        return read_scenes(ParserOutput(**seen).to("cpu"), batch)

    def load_images(self, images: Image | Sequence[Image]) -> ImageShare:
        """Load images at the setup's size; see `input_images.load_images`."""
        size = self.params.setup(self.setup)
        return load_images(images, size.height, size.width)

    def check_inverted(self, queries: Tensor, layout: BlobLayout) -> None:
        """Raise BlobexError unless images and layouts have the sizes of this setup's networks."""
        size = self.params.setup(self.setup)
        if queries.shape[1:] != (3, size.height, size.width):
            raise BlobexError(f"the images {tuple(queries.shape)} are not {self.setup}'s: run `dvc repro invert` again")
        with torch.no_grad():
            encoded = self.exact.encode(queries[:1].to(self.device))
        if any(getattr(layout, key).shape[1:] != tensor.shape[1:] for key, tensor in encoded.items()):
            raise BlobexError("the layouts belong to another generator: run `dvc repro invert` again")

    def settings(self, plan: Plan, gif: bool = False) -> dict[str, Any]:
        """Return everything that the results of a plan depend on, except the images; see `result_settings`."""
        size = self.params.setup(self.setup)
        identity = identify(self.decision, size, self.device)  # now: it may have been trained since the last call
        found = result_settings(self.params, self.setup, self.device, plan, gif)
        weights = {name: digest for name, digest in self.weights.items() if name != "decision"}
        return found | {"weights": weights, "decision": decision_settings(self.decision, identity)}

    @property
    def batch_size(self) -> int:
        """Number of images processed at once."""
        size = self.params.setup(self.setup)
        images = max(1, batch_pixels(self.params.search.max_batch_pixels, self.device) // (size.height * size.width))
        return float32_batch_size(images, self.device) if self.quick is self.exact else images

    @property
    def _rows(self) -> int:
        """Batch size of float32 networks without gradients."""
        return float32_batch_size(self.batch_size, self.device)

    def _gate(self, questions: Questions, images: InvertedImages, plan: Plan) -> GateResult:
        inversion = images.inversion
        other = images.queries if self.published else inversion.image  # than the images in question
        return check_reconstructions(questions, self.outputs(other), inversion.perceptual, plan.gate)
