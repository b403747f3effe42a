"""One step of explaining: the networks of a setup, put to work on pictures that are tensors already."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.config.value_types import Shape
from blobex.core.device import batch_pixels
from blobex.core.errors import BlobexError
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.masks import build_masks, check_mask_rows
from blobex.counterfactual.published import search_published
from blobex.counterfactual.questions import Questions, build_questions, check_region
from blobex.counterfactual.search import SearchOptions, search
from blobex.counterfactual.verify import Counterfactuals
from blobex.counterfactual.whole_objects import ObjectExamples
from blobex.datasets.images import to_float, to_tensor
from blobex.decisions.decision import Decision, frozen_eval, output_index
from blobex.explain.explanation import Explanation, explanations
from blobex.explain.film import films
from blobex.explain.request import Plan, Request, plan
from blobex.inversion.invert import Inversion, invert
from blobex.inversion.published import invert_published
from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm
from blobex.networks.parser import Parser, ParserOutput
from blobex.optim.batching import float32_batch_size, in_batches
from blobex.optim.networks import Networks
from blobex.perception.differences import differences, sentence
from blobex.perception.objects import read_scenes
from blobex.perception.painting_blobs import painting_blobs
from blobex.perception.reading import SceneReading
from blobex.perception.regions import region_mask


@dataclass(frozen=True)
class Engine:
    """All that explaining pictures of one setup needs: the model in question, and the networks twice, `exact` in
    float32 and `quick` in what the device computes fastest; both on `device`."""

    setup: str
    params: Params
    device: torch.device
    decision: Decision
    exact: Networks
    quick: Networks
    weights: dict[str, str] = field(default_factory=dict)  # SHA-256 of each network's, by its name
    parser: Parser | None = None  # finds objects that are named; None where there is none
    examples: ObjectExamples | None = None  # whose objects are tried before gradients; None where there are none

    def questions(self, queries: Tensor, request: Request) -> Questions:
        """All that a request asks about pictures (N,3,height,width) in [-1,1], as many questions about each."""
        chosen, model = self.plan(request), self.decision
        columns, old = self.columns(chosen.attributes), self._replaced(chosen.replaced)
        return build_questions(model.kind, model.outputs, self.outputs(queries), columns, chosen.region, old)

    def answer(
        self,
        names: Sequence[str],
        queries: Tensor,
        inversion: Inversion,
        request: Request,
        gif: bool = False,
        questions: Questions | None = None,
    ) -> tuple[list[Explanation], list[list[np.ndarray]]]:
        """The explanations of pictures whose inversion is known, and, with `gif`, the frames of each one's film.

        They answer `questions`, some of `self.questions`; if None, all of them.
        """
        chosen = self.plan(request)
        queries, inversion = queries.to(self.device), inversion.to(self.device)
        questions = self.questions(queries, request) if questions is None else questions
        gates = self._gates(questions, inversion, chosen)
        if chosen.gate.action == "refine" and any(gates):
            inversion = self._refined(queries, inversion, questions, gates, chosen)
            gates = self._gates(questions, inversion, chosen)
        skip = torch.tensor([bool(gate) and chosen.gate.action == "skip" for gate in gates])
        allowed = self._allowed(names, queries, inversion.layout, chosen)
        found = self.search(queries, inversion.layout, questions, allowed, chosen, skip)
        compose = "photo" if chosen.photo and self.params.search.mode == "fast" else "full"
        records = self.described(
            explanations(names, self.setup, questions, queries, inversion, found, compose, gates, skip.tolist())
        )
        if not gif:
            return records, []
        rows, form = float32_batch_size(self.batch_size, self.device), VectorForm.of(inversion.layout)
        over = Composer.over_queries(queries, inversion.layout, self.exact, rows)
        composer = over if compose == "photo" else Composer(self.exact, form, None)
        return records, films(inversion.layout, found, composer, rows)

    def described(self, records: Sequence[Explanation]) -> list[Explanation]:
        """The records with what the parser sees changed in them; without a parser they stay as they are.

        What was rendered anew is compared with the reconstruction: what the generator cannot paint is no change.
        """
        if self.parser is None:
            return list(records)
        before = self.readings([each.query if each.compose == "photo" else each.reconstruction for each in records])
        after = self.readings([each.counterfactual for each in records])
        told = []
        for record, *pair in zip(records, before, after, strict=True):
            found = differences(*pair)
            objects = tuple(change.as_dict() for change in found)
            told.append(dataclasses.replace(record, sentence=sentence(found), objects=objects))
        return told

    def readings(self, pictures: Sequence[np.ndarray]) -> list[SceneReading]:
        """What the parser sees in pictures, uint8 (height,width,3); BlobexError without a parser."""
        if self.parser is None:
            raise BlobexError(f"there is no parser for {self.setup}: run `dvc repro parser@{self.setup}` first")
        parser, shown = self.parser, torch.stack([to_tensor(picture) for picture in pictures])
        with torch.no_grad():
            rows = float32_batch_size(self.batch_size, self.device)
            seen = in_batches(lambda part: vars(parser(to_float(part))), rows, shown.to(self.device))
        return read_scenes(ParserOutput(**seen).to("cpu"), shown)

    def plan(self, request: Request) -> Plan:
        """What a request means with this setup's parameters."""
        return plan(request, self.params.explain, cast(Shape, self.setup))

    def check(self, request: Request) -> None:
        """BlobexError: a request that this model or this mode of search has no answer to."""
        check_region(self.decision.kind, request.region, request.replaced)
        self.columns(request.attributes)
        self._replaced(request.replaced)
        if self.plan(request).variant.count > 1 and self.params.search.mode == "published":
            raise BlobexError("the published search finds one counterfactual at a time: use search.mode fast")
        if self.plan(request).gate.action == "skip" and self.params.search.mode == "published":
            raise BlobexError("the published search skips nothing: let the gate report, or use search.mode fast")

    @property
    def batch_size(self) -> int:
        """How many pictures are worked on at once."""
        size = self.params.setup(self.setup)
        return max(1, batch_pixels(self.params.search.max_batch_pixels, self.device) // (size.height * size.width))

    def outputs(self, queries: Tensor) -> Tensor:
        """What the model says of pictures (N,3,height,width): (N,A), or (N,A,height,width) for segmentation."""
        with frozen_eval(self.decision), torch.no_grad():
            rows = float32_batch_size(self.batch_size, self.device)
            return in_batches(lambda part: {"said": self.exact.decide(part)}, rows, queries.to(self.device))["said"]

    def columns(self, attributes: Sequence[str] | None) -> list[int]:
        """The model's outputs of these names, each once; BlobexError if a name is unknown or none is given."""
        if attributes is None:
            known = self.decision.outputs if self.decision.kind == "attributes" else ()
            attributes = ["stop"] if "stop" in known else known
        elif not attributes:
            raise BlobexError(f"no attribute to explain: choose from {', '.join(self.decision.outputs)}")
        return list(dict.fromkeys(output_index(self.decision, name) for name in attributes))

    def invert(self, queries: Tensor, start: BlobLayout | None = None, steps: int | None = None) -> Inversion:
        """The blobs of pictures (N,3,height,width) in [-1,1], with the parameters' settings.

        With `start` the search begins there, and not at the encoder's blobs.
        """
        values = self.params.invert.square if self.setup == "square" else self.params.invert.rect
        values = values if steps is None else dataclasses.replace(values, steps=steps)
        queries = queries.to(self.device)
        with frozen_eval(self.decision):
            if self.params.search.mode == "published":
                return invert_published(queries, self.exact)
            return invert(
                queries, quick=self.quick, exact=self.exact, setup=values, batch_size=self.batch_size, start=start
            )

    def search(
        self,
        queries: Tensor,
        start: BlobLayout,
        questions: Questions,
        allowed: dict[str, Tensor],
        chosen: Plan,
        skip: Tensor | None = None,
    ) -> Counterfactuals:
        """The counterfactuals of inverted pictures; see `blobex.counterfactual.search.search`."""
        problems = (queries, start, questions.image_index, questions.target, allowed)
        options = SearchOptions(chosen.variant.few, chosen.variant.count, chosen.photo, self.params.run.seed)
        with frozen_eval(self.decision):
            if self.params.search.mode == "published":
                return search_published(*problems, self.exact)
            return search(
                *problems,
                quick=self.quick,
                exact=self.exact,
                setup=chosen.setup,
                batch_size=self.batch_size,
                options=options,
                skip=skip,
                examples=self.examples,
            )

    def masks(self, count: int, pictures: int, chosen: Plan) -> dict[str, Tensor]:
        allowed = build_masks(count, chosen.variant.keys, chosen.blobs, chosen.variant.background)
        check_mask_rows(allowed, pictures)
        return allowed

    def _allowed(self, names: Sequence[str], queries: Tensor, layout: BlobLayout, chosen: Plan) -> dict[str, Tensor]:
        """What may change in pictures whose layout is known: a place that was named chooses blobs in each."""
        if chosen.only is None:
            return self.masks(layout.blobs, len(names), chosen)
        rows = float32_batch_size(self.batch_size, self.device)
        form = VectorForm.of(layout)
        scores = in_batches(
            lambda vector: {"scores": self.exact.scores(form.unflatten(vector))}, rows, form.flatten(layout)
        )
        blobs, backgrounds = list[list[int]](), list[bool]()
        places = zip(names, scores["scores"], self.regions(chosen.only, names, queries), strict=True)
        for name, painted, region in places:
            with naming(name):
                (some,), (background,) = painting_blobs(
                    painted[None], region[None], background=chosen.variant.background
                )
            blobs.append(some)
            backgrounds.append(background)
        return build_masks(layout.blobs, chosen.variant.keys, blobs, backgrounds)

    def regions(self, text: str, names: Sequence[str], queries: Tensor) -> list[Tensor]:
        """The region, bool (height,width), that a text means in each of some pictures; see `regions.region_mask`."""
        found = []
        for name, query in zip(names, queries, strict=True):
            with torch.no_grad():
                output = self.parser(query[None].to(self.device)) if self.parser else None
            with naming(name):
                found.append(region_mask(text, query.shape[1], query.shape[2], output))
        return found

    def _replaced(self, name: str | None) -> int | None:
        return None if name is None else output_index(self.decision, name)

    def _gates(self, questions: Questions, inversion: Inversion, chosen: Plan) -> list[str]:
        """Why the reconstruction does not stand for the picture, for each question; empty where it does."""
        said = self.outputs(inversion.image)[questions.image_index]
        decided = (questions.target.margin(said) > 0).tolist()
        already = [before == after for before, after in zip(questions.before, questions.after, strict=True)]
        limit = chosen.gate.perceptual
        far = [limit is not None and not distance <= limit for distance in inversion.perceptual.tolist()]
        return [
            "already decided otherwise" if wrong and not so else f"further off than {limit}" if far[index] else ""
            for wrong, so, index in zip(decided, already, questions.image_index.tolist(), strict=True)
        ]

    def _refined(
        self, queries: Tensor, inversion: Inversion, questions: Questions, gates: Sequence[str], chosen: Plan
    ) -> Inversion:
        """The inversion with a second one, from where the first ended, of the pictures that did not pass."""
        index = questions.image_index[torch.tensor([bool(gate) for gate in gates], device=self.device)].unique()
        again = self.invert(queries[index], inversion.layout[index], chosen.gate.refine_steps)
        return inversion.replaced(index, again)


@contextmanager
def naming(picture: str) -> Iterator[None]:
    """An error within is told with the picture's name."""
    try:
        yield
    except BlobexError as error:
        raise BlobexError(f"{picture}: {error}") from error
