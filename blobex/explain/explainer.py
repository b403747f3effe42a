"""The public face: which change of a picture's objects would change a model's decision?

In short:

    explainer = Explainer.load("rect")
    for explanation in explainer.explain(["photo.jpg"], attributes=["stop"], out=Path("explained")):
        print(explanation)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.params import Params
from blobex.config.read import load_params, to_dict
from blobex.core.device import keep_freed_memory, resolve_device
from blobex.core.errors import BlobexError
from blobex.core.ranks import ALONE, Ranks
from blobex.counterfactual.questions import Box
from blobex.datasets.images import fit, load_image, name_of, to_float, to_tensor, write_png
from blobex.decisions.decision import Decision
from blobex.decisions.load import Model
from blobex.explain.engine import Engine
from blobex.explain.explanation import Explanation
from blobex.explain.loading import load_networks
from blobex.explain.published_files import write_metadata
from blobex.explain.request import Blobs, Request
from blobex.explain.results_folder import ResultFolder
from blobex.explain.snapshot import snapshot
from blobex.inversion.invert import Inversion
from blobex.layout.blobs import BlobLayout

Picture = str | Path | np.ndarray
WRITTEN = 16  # pictures of one snapshot


@dataclass(frozen=True)
class Explainer(Engine):
    """Explains pictures from files or arrays, and keeps what it finds."""

    @classmethod
    def load(
        cls,
        setup: str = "rect",
        models: str | Path = "models",
        params: str | Path | Params = "params.yaml",
        device: str | None = None,
        decision: str | Decision | Model | None = None,
    ) -> Explainer:
        """The explainer of a setup's trained networks.

        `decision` is what `blobex.decisions.load.load` takes: plain, biased, a card, a file, a URI, or any callable
        from pictures (N,3,H,W) in [-1,1] to logits. What is None stands in the parameters. BlobexError: networks are
        missing or of another setup, the decision model will not do, or the parameters contradict each other.
        """
        values = params if isinstance(params, Params) else load_params(params)
        if values.search.mode == "fast":
            keep_freed_memory()
        place = resolve_device(device or values.run.device)
        if values.search.mode == "published" and values.invert.start != "encoder":
            raise BlobexError("the published search begins at the encoder's blobs: set invert.start to encoder")
        model = values.explain.decision if decision is None else decision
        loaded = load_networks(setup, Path(models), values, place, model)
        networks = loaded.decision, loaded.exact, loaded.quick, loaded.weights, loaded.parser, loaded.examples
        return cls(setup, values, place, *networks)

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
        variant: str = "basic",
        only: str | None = None,
        few: bool | None = None,
        count: int | None = None,
        compose: str | None = None,
        gate: str | None = None,
        gif: bool = False,
        published: bool = False,
        replace: bool = False,
        ranks: Ranks = ALONE,
    ) -> list[Explanation]:
        """One explanation per picture, attribute and counterfactual, in that order.

        `images` are files of any size, or uint8 arrays (H,W) or (H,W,3); they are cropped about their centre and
        resized. What may be asked is told at `Request`. With `out`, all about each picture is written to that folder as
        soon as it is known, with a film of each change for `gif` and metadata_<i>.pt for `published`; a run that was
        stopped goes on where it was. BlobexError: bad input; `out` holds other files, or results of other settings
        without `replace`.

        Of several `ranks` each explains its share of the pictures, all write to the same `out`, and the first one gives
        the explanations of all, the others none.
        """
        request = Request(
            attributes,
            region,
            replaced,
            variant,
            keys,
            blobs,
            only,
            background,
            few,
            count,
            compose,
            gate,
            steps,
            lambda_prox,
            learning_rate,
        )
        self.check(request)
        if out is None and ranks.size > 1:
            raise BlobexError("several processes need a folder for what they find: name one as out")
        names, queries = self.load_pictures(images, ranks)
        self.masks(self._blobs(), len(names), self.plan(request))

        def inversion(numbers: Tensor) -> Inversion:
            return self.invert(queries[ranks.positions(numbers)])

        found = self.run(names, queries, inversion, request, out, gif, replace, ranks)
        if out is not None and published and ranks.first:
            write_published(Path(out), found, len(names))
        return found

    def run(
        self,
        names: Sequence[str],
        queries: Tensor,
        inversion: Callable[[Tensor], Inversion],
        request: Request,
        out: str | Path | None = None,
        gif: bool = False,
        replace: bool = False,
        ranks: Ranks = ALONE,
    ) -> list[Explanation]:
        """As `explain`, for pictures (N,3,height,width) in [-1,1]; `inversion` gives that of those by number.

        Of several `ranks` each has its share of the pictures, and the names of all.
        """
        self.check(request)
        store = None if out is None else self._store(out, self.settings(request, gif), replace, ranks)
        share = [number for number in range(len(names)) if ranks.has(number)]
        known = {n: store.known(n, names[n], query) for n, query in zip(share, queries, strict=True)} if store else {}
        records = {number: found for number, found in known.items() if found is not None}
        missing = torch.tensor([number for number in share if number not in records], dtype=torch.long)
        for index in tqdm(
            missing.split(self.batch_size) if len(missing) else (),
            desc="pictures",
            disable=None if ranks.first else True,
            leave=False,
        ):
            some, asked = [names[number] for number in index.tolist()], queries[ranks.positions(index)]
            found, frames = self.answer(some, asked, inversion(index), self._of(request, index), gif)
            each = len(found) // len(some)
            for place, number in enumerate(index.tolist()):
                rows = slice(place * each, (place + 1) * each)
                records[number] = found[rows]
                if store:
                    store.write(number, asked[place], found[rows], frames[rows])
        ranks.wait()
        if not ranks.first:
            return []
        if store:
            others = [number for number in range(len(names)) if not ranks.has(number)]
            records |= {number: store.written(number, names[number]) for number in others}
        ordered = [record for number in range(len(names)) for record in records[number]]
        if store:
            store.finish(names, ordered)
            write_snapshots(store.path, ordered, len(names))
        return ordered

    def check_inverted(self, queries: Tensor, layout: BlobLayout) -> None:
        """BlobexError unless pictures have the setup's size, and their blobs are such as the generator's."""
        size = self.params.setup(self.setup)
        if queries.shape[1:] != (3, size.height, size.width):
            raise BlobexError(f"pictures {tuple(queries.shape)} are not {self.setup}'s: run `dvc repro invert` again")
        with torch.no_grad():
            ours = self.exact.encode(queries[:1].to(self.device))
        if any(getattr(layout, key).shape[1:] != tensor.shape[1:] for key, tensor in ours.items()):
            raise BlobexError("the blobs are of another generator: run `dvc repro invert` again")

    def settings(self, request: Request, gif: bool = False) -> dict[str, Any]:
        """All that decides what the results of a request are, but for the pictures."""
        params = to_dict(self.params)
        return {
            "setup": self.setup,
            "size": params["setups"][self.setup],
            "weights": self.weights,
            "decision": {
                "name": self.decision.name,
                "kind": self.decision.kind,
                "outputs": list(self.decision.outputs),
                "input": None if self.decision.input is None else dataclasses.asdict(self.decision.input),
            },
            "request": dataclasses.asdict(self.plan(request)),
            "invert": params["invert"][self.setup],
            "search": params["search"]["mode"],
            "precision": params["run"]["precision"],
            "seed": params["run"]["seed"],
            "perceptual": params["data"]["perceptual"],
            "device": self.device.type,
            "gif": gif,
        }

    def load_pictures(self, images: Picture | Sequence[Picture], ranks: Ranks = ALONE) -> tuple[list[str], Tensor]:
        """Names and pictures (N,3,height,width) in [-1,1] on the CPU; arrays are named array_0, array_1, ...

        Of several `ranks` each reads its share of the pictures, and names all.
        """
        single = isinstance(images, str | Path) or (isinstance(images, np.ndarray) and images.ndim < 4)
        listed = cast(list[Picture], [images] if single else list(cast(Sequence[Picture], images)))
        if not listed:
            raise BlobexError("no pictures to explain: give at least one")
        size = self.params.setup(self.setup)
        names = [f"array_{n}" if isinstance(item, np.ndarray) else name_of(item) for n, item in enumerate(listed)]
        share = [item for number, item in enumerate(listed) if ranks.has(number)]
        arrays = [_rgb(item) if isinstance(item, np.ndarray) else load_image(item) for item in share]
        fitted = [to_tensor(fit(array, size.height, size.width)) for array in arrays]
        return names, to_float(torch.stack(fitted) if fitted else torch.empty(0, 3, size.height, size.width))

    def _store(self, out: str | Path, settings: Mapping[str, Any], replace: bool, ranks: Ranks) -> ResultFolder:
        """The folder of the results, which the first of several processes makes ready for all."""
        if ranks.size == 1:
            return ResultFolder.begin(out, settings, replace)
        if ranks.first:
            ResultFolder.begin(out, settings, replace).mark()
        ranks.wait()
        return ResultFolder.begin(out, settings, replace=False)

    def _blobs(self) -> int:
        size = self.params.setup(self.setup)
        with torch.no_grad():
            return self.exact.encode(torch.zeros(1, 3, size.height, size.width, device=self.device)).blobs

    def _of(self, request: Request, index: Tensor) -> Request:
        """The request for some of the pictures: blobs may be listed for each."""
        blobs = request.blobs
        if blobs is None or len(blobs) == 1 or not any(isinstance(each, Sequence) for each in blobs):
            return request
        return dataclasses.replace(request, blobs=[blobs[number] for number in index.tolist()])


def write_snapshots(folder: Path, records: Sequence[Explanation], pictures: int) -> None:
    """Write snapshot_<i>.png per 16 pictures, in 256 colours: to look at. Their pixels are in the pictures' folders."""
    each = len(records) // pictures
    for number, first in enumerate(range(0, pictures, WRITTEN)):
        shown = snapshot(records[first * each : (first + WRITTEN) * each], each)
        write_png(folder / f"snapshot_{number}.png", shown, colours=256)


def write_published(folder: Path, records: Sequence[Explanation], pictures: int) -> None:
    """Write metadata_<i>.pt per 16 pictures."""
    each = len(records) // pictures
    for number, first in enumerate(range(0, pictures, WRITTEN)):
        part = records[first * each : (first + WRITTEN) * each]
        write_metadata(folder, number, part, len(part) // each)


def _rgb(array: np.ndarray) -> np.ndarray:
    """(H,W) or (H,W,3) uint8 as (H,W,3)."""
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise BlobexError(
            f"a picture array must be uint8 (H,W) or (H,W,3), not {array.dtype} {array.shape}: convert it"
        )
    return array
