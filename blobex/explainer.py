"""The public face: which change of a picture's objects would change a model's decision?

explainer = Explainer.load("rect")
for explanation in explainer.explain(["photo.jpg"], attributes=["stop"], out=Path("explained")):
    print(explanation)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from blobex import config
from blobex.config import ExplainSetup, Params
from blobex.counterfactual.folder import result_folder
from blobex.counterfactual.published import search_published
from blobex.counterfactual.questions import Box, Questions, ask, check_region
from blobex.counterfactual.result import Explanation, explanations, write_metadata, write_table
from blobex.counterfactual.search import Counterfactuals, search
from blobex.counterfactual.space import check_listed, masks
from blobex.datasets.images import fit, load_image, to_float, to_tensor, write_png
from blobex.decisions.decision import Decision, output_index, resting
from blobex.decisions.load import Model
from blobex.descent.slots import exact_rows, in_slots
from blobex.device import batch_pixels, keep_freed_memory, resolve_device
from blobex.errors import BlobexError
from blobex.inversion.invert import Inversion, invert
from blobex.inversion.networks import Networks
from blobex.inversion.published import invert_published
from blobex.layout.layout import BlobLayout
from blobex.loading import load_networks
from blobex.report.figures import Cell, Tone, grid

Picture = str | Path | np.ndarray
Blobs = Sequence[int] | Sequence[Sequence[int]]
WRITTEN = 16  # pictures of one snapshot


@dataclass(frozen=True)
class Explainer:
    """All that explaining pictures of one setup needs: the model in question, and the networks twice, `exact` in
    float32 and `quick` in what the device computes fastest; both on `device`."""

    setup: str
    params: Params
    device: torch.device
    decision: Decision
    exact: Networks
    quick: Networks

    @classmethod
    def load(
        cls,
        setup: str = "rect",
        models: str | Path = "models",
        params: str | Path | Params = "params.yaml",
        device: str | None = None,
        decision: str | Decision | Model | None = None,
        pretrained_encoder: bool = False,
    ) -> Explainer:
        """The explainer of a setup's trained networks.

        `decision` is what `blobex.decisions.load.load` takes: plain, biased, a card, a file, a URI, or any callable
        from pictures (N,3,H,W) in [-1,1] to logits. What is None stands in the parameters. With `pretrained_encoder`
        the encoder is the one that saw generated pictures only. BlobexError: networks are missing or of another setup,
        or the decision model will not do.
        """
        values = params if isinstance(params, Params) else config.load(params)
        if values.search.mode == "fast":
            keep_freed_memory()
        place = resolve_device(device or values.run.device)
        kind = "encoder_pretrain" if pretrained_encoder else "encoder"
        model = values.explain.decision if decision is None else decision
        loaded = load_networks(setup, Path(models), values, place, model, kind)
        return cls(setup, values, place, loaded.decision, loaded.exact, loaded.quick)

    def explain(
        self,
        images: Picture | Sequence[Picture],
        attributes: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        blobs: Blobs | None = None,
        background: bool | None = None,
        out: str | Path | None = None,
        region: Box | None = None,
        replaced: str | None = None,
        steps: int | None = None,
        lambda_prox: float | None = None,
        learning_rate: float | None = None,
    ) -> list[Explanation]:
        """One explanation per picture and attribute, in that order.

        `images` are files of any size, or uint8 arrays (H,W) or (H,W,3); they are cropped about their centre and
        resized. `attributes` are outputs of the model: attributes that should become what they are not (if None are
        named stop, or all where there is no stop), classes that should win (the runner-up, if None), or classes that
        `region` (left, top, right, bottom, as shares of the picture) should take instead of `replaced`, or of what is
        commonest there. `keys` are keys of the layout or position, size, shape, appearance, style; `blobs` are numbers,
        or one list of numbers per picture. What else is None stands in the parameters, except that the background stays
        as it is where blobs are named. With `out`, that folder is written when all is done: explanations.parquet, and
        snapshot_<i>.png and metadata_<i>.pt per 16 pictures. BlobexError: bad input, and `out` holding other files.
        """
        check_region(self.decision.kind, region, replaced)
        self.columns(attributes)
        self._replaced(replaced)
        setup = self._explain_setup(steps, lambda_prox, learning_rate)
        names, queries = self.load_pictures(images)
        self._masks(self._blobs(queries), len(names), keys, blobs, background)  # errors first
        with result_folder(out) as folder:
            inversion = self.invert(queries.to(self.device))
            return self.explain_inverted(
                names, queries, inversion, attributes, keys, blobs, background, folder, region, replaced, setup
            )

    def explain_inverted(
        self,
        names: Sequence[str],
        queries: Tensor,
        inversion: Inversion,
        attributes: Sequence[str] | None = None,
        keys: Sequence[str] | None = None,
        blobs: Blobs | None = None,
        background: bool | None = None,
        folder: Path | None = None,
        region: Box | None = None,
        replaced: str | None = None,
        setup: ExplainSetup | None = None,
    ) -> list[Explanation]:
        """As `explain`, for pictures (N,3,height,width) in [-1,1] whose inversion is known; files go into `folder`."""
        queries, inversion = queries.to(self.device), inversion.to(self.device)
        allowed = self._masks(inversion.layout.blobs, len(names), keys, blobs, background)
        columns, old, model = self.columns(attributes), self._replaced(replaced), self.decision
        questions = ask(model.kind, model.outputs, self.outputs(queries), columns, region, old)
        found = self.search(queries, inversion.layout, questions, allowed, setup)
        records = explanations(names, self.setup, questions, queries, inversion, found)
        if folder:
            each = len(records) // len(names)
            for number, chosen in enumerate(torch.arange(len(names)).split(WRITTEN)):
                first, last = int(chosen[0]), int(chosen[-1]) + 1
                part = records[first * each : last * each]
                write_metadata(folder, number, part, len(chosen))
                write_png(folder / f"snapshot_{number}.png", snapshot(part, each))
            write_table(folder, records)
        return records

    @property
    def slots(self) -> int:
        """How many pictures are worked on at once."""
        size = self.params.setup(self.setup)
        return max(1, batch_pixels(self.params.search.max_batch_pixels, self.device) // (size.height * size.width))

    def outputs(self, queries: Tensor) -> Tensor:
        """What the model says of pictures (N,3,height,width): (N,A), or (N,A,height,width) for segmentation."""
        with resting(self.decision), torch.no_grad():
            rows = exact_rows(self.slots, self.device)
            return in_slots(lambda part: {"said": self.exact.decide(part)}, rows, queries.to(self.device))["said"]

    def columns(self, attributes: Sequence[str] | None) -> list[int]:
        """The model's outputs of these names, each once; BlobexError if a name is unknown or none is given."""
        if attributes is None:
            known = self.decision.outputs if self.decision.kind == "attributes" else ()
            attributes = ["stop"] if "stop" in known else known
        elif not attributes:
            raise BlobexError(f"no attribute to explain: choose from {', '.join(self.decision.outputs)}")
        return list(dict.fromkeys(output_index(self.decision, name) for name in attributes))

    def _replaced(self, name: str | None) -> int | None:
        return None if name is None else output_index(self.decision, name)

    def _blobs(self, queries: Tensor) -> int:
        with torch.no_grad():
            return self.exact.encode(queries[:1].to(self.device)).blobs

    def _masks(
        self, count: int, pictures: int, keys: Sequence[str] | None, blobs: Blobs | None, background: bool | None
    ) -> dict[str, Tensor]:
        if background is None:
            background = self.params.explain.background and blobs is None
        blobs = self.params.explain.blobs if blobs is None else blobs
        allowed = masks(count, self.params.explain.keys if keys is None else keys, blobs, background)
        check_listed(allowed, pictures)
        return allowed

    def invert(self, queries: Tensor) -> Inversion:
        """The blobs of pictures (N,3,height,width) in [-1,1], with the parameters' settings."""
        values = self.params.invert.square if self.setup == "square" else self.params.invert.rect
        queries = queries.to(self.device)
        with resting(self.decision):
            if self.params.search.mode == "published":
                return invert_published(queries, self.exact)
            return invert(queries, quick=self.quick, exact=self.exact, setup=values, slots=self.slots)

    def search(
        self,
        queries: Tensor,
        start: BlobLayout,
        questions: Questions,
        allowed: dict[str, Tensor],
        setup: ExplainSetup | None = None,
    ) -> Counterfactuals:
        """The counterfactuals of inverted pictures; see `blobex.counterfactual.search.search`."""
        problems = (queries, start, questions.image_index, questions.target, allowed)
        setup = setup or self._explain_setup(None, None, None)
        with resting(self.decision):
            if self.params.search.mode == "published":
                return search_published(*problems, self.exact)
            return search(*problems, quick=self.quick, exact=self.exact, setup=setup, slots=self.slots)

    def load_pictures(self, images: Picture | Sequence[Picture]) -> tuple[list[str], Tensor]:
        """Names and pictures (N,3,height,width) in [-1,1] on the CPU; arrays are named array_0, array_1, ..."""
        single = isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim < 4)
        listed = cast(list[Picture], [images] if single else list(cast(Sequence[Picture], images)))
        if not listed:
            raise BlobexError("no pictures to explain: give at least one")
        size = self.params.setup(self.setup)
        arrays = [_rgb(item) if isinstance(item, np.ndarray) else load_image(item) for item in listed]
        names = [f"array_{n}" if isinstance(item, np.ndarray) else str(item) for n, item in enumerate(listed)]
        fitted = torch.stack([to_tensor(fit(array, size.height, size.width)) for array in arrays])
        return names, to_float(fitted)

    def _explain_setup(self, steps: int | None, lambda_prox: float | None, learning_rate: float | None) -> ExplainSetup:
        values = self.params.explain.square if self.setup == "square" else self.params.explain.rect
        given = {"steps": steps, "lambda_prox": lambda_prox, "learning_rate": learning_rate}
        tree = dataclasses.asdict(values) | {key: value for key, value in given.items() if value is not None}
        return config.parse(ExplainSetup, tree, f"explain.{self.setup}")


def snapshot(records: Sequence[Explanation], each: int) -> np.ndarray:
    """A grid, uint8 (H,W,3): per picture its query, its reconstruction and its `each` counterfactuals."""
    names = [{record.attribute for record in records[column::each]} for column in range(each)]
    titles = ["query", "reconstruction", *("/".join(sorted(some)) for some in names)]
    rows = []
    for first in range(0, len(records), each):
        group = records[first : first + each]
        before = ", ".join(f"{record.attribute} {record.score_before:.2f}" for record in group)
        after = ", ".join(f"{record.attribute} {record.score_reconstruction:.2f}" for record in group)
        query = Cell(group[0].query, f"{Path(group[0].image).name}\n{before}")
        rows.append([query, Cell(group[0].reconstruction, after), *map(_counterfactual_cell, group)])
    return grid(titles, rows)


def _counterfactual_cell(record: Explanation) -> Cell:
    tone: Tone = "good" if record.verdict == "flipped" else "bad"
    scores = f"{record.attribute} {record.score_before:.2f} -> {record.score_after:.2f}"
    return Cell(record.counterfactual, f"{scores}\n{record.verdict}", tone)


def _rgb(array: np.ndarray) -> np.ndarray:
    """(H,W) or (H,W,3) uint8 as (H,W,3)."""
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise BlobexError(
            f"a picture array must be uint8 (H,W) or (H,W,3), not {array.dtype} {array.shape}: convert it"
        )
    return array
