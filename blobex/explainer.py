"""The public face: which change of a picture's objects would change a driving model's decision?

explainer = Explainer.load("rect")
for explanation in explainer.explain(["photo.jpg"], attributes=["stop"], out=Path("explained")):
    print(explanation)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from torch import Tensor

from blobex import config
from blobex.config import ExplainSetup, Params
from blobex.counterfactual.folder import result_folder
from blobex.counterfactual.result import Explanation, explanations, write_metadata, write_table
from blobex.counterfactual.search import Counterfactuals, Decide, search
from blobex.counterfactual.space import masks
from blobex.datasets.images import fit, load_image, to_float, to_tensor, write_png
from blobex.device import resolve_device
from blobex.errors import BlobexError
from blobex.inversion.invert import Encode, Features, Inversion, Perceptual, Render, invert
from blobex.layout.layout import BlobLayout
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import load_decision
from blobex.networks.encoder import load_encoder
from blobex.networks.perceptual import load_perceptual
from blobex.report.figures import Cell, Tone, grid

ATTRIBUTES: tuple[str, ...] = get_args(config.Attribute)  # in the order of the decision model's outputs
Picture = str | Path | np.ndarray
Blobs = Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Explainer:
    """All that explaining pictures of one setup needs. Networks are plain callables on `device`.

    `decide` maps pictures (N,3,height,width) in [-1,1] to logits (N,A), and `decide_features` to (N,D). Both see
    renderings cut to [-1,1], as they can be shown.
    """

    setup: str
    params: Params
    device: torch.device
    render: Render
    encode: Encode
    decide: Decide
    decide_features: Features
    perceptual: Perceptual

    @classmethod
    def load(
        cls,
        setup: str = "rect",
        models: str | Path = "models",
        params: str | Path = "params.yaml",
        device: str | None = None,
        decision: str | Decide | None = None,
        pretrained_encoder: bool = False,
    ) -> Explainer:
        """The explainer of a setup's trained networks.

        `decision` is plain, biased, or any callable from pictures (N,3,H,W) in [-1,1] to logits (N,A); if the callable
        has a method `features`, inversion compares those, otherwise its logits. What is None stands in the parameters.
        With `pretrained_encoder` the encoder is the one that saw generated pictures only. BlobexError: networks are
        missing or of another setup.
        """
        values = config.load(params)
        height, width = values.setup(setup).height, values.setup(setup).width
        place, models = resolve_device(device or values.run.device), Path(models)
        encoder_kind = "encoder_pretrain" if pretrained_encoder else "encoder"
        blobgan_folder, encoder_folder = models / "blobgan" / setup, models / encoder_kind / setup
        _check_size(blobgan_folder, "blobgan", setup, height, width)
        _check_size(encoder_folder, encoder_kind, setup, height, width)
        blobgan, encoder = load_blobgan(blobgan_folder).to(place), load_encoder(encoder_folder, encoder_kind).to(place)
        wanted = blobgan.layout_network.w_size(encoder.mlp_idx)
        if encoder.config["w_size"] != wanted:
            raise BlobexError(f"the encoder in {encoder_folder} is of another BlobGAN: run `dvc repro {encoder_kind}`")
        parser_folder = models / "parser" / setup
        if values.data.perceptual == "parser":
            _check_size(parser_folder, "parser", setup, height, width)
        model = decision
        if model is None or isinstance(model, str):
            folder = models / "decision" / setup / _one_of(model or values.explain.decision)
            _check_size(folder, "decision", setup, height, width)
            model = cast(Decide, load_decision(folder).to(place))
        return cls(
            setup=setup,
            params=values,
            device=place,
            render=blobgan.render,
            encode=lambda images: blobgan.layout_from_w(encoder(images), encoder.mlp_idx),
            decide=_on_shown(model),
            decide_features=_on_shown(getattr(model, "features", model)),
            perceptual=load_perceptual(values.data.perceptual, parser_folder).to(place),
        )

    def explain(
        self,
        images: Picture | Sequence[Picture],
        attributes: Sequence[str] = ("stop",),
        keys: Sequence[str] | None = None,
        blobs: Blobs | None = None,
        background: bool | None = None,
        out: str | Path | None = None,
        steps: int | None = None,
        lambda_prox: float | None = None,
        learning_rate: float | None = None,
    ) -> list[Explanation]:
        """One explanation per picture and attribute, in that order.

        `images` are files of any size, or uint8 arrays (H,W) or (H,W,3); they are cropped about their centre and
        resized. `keys` are keys of the layout or position, size, shape, appearance, style; `blobs` are numbers, or one
        list of numbers per picture. What is None stands in the parameters, except that the background stays as it is
        where blobs are named. With `out`, that folder is written when all is done: explanations.parquet, and
        snapshot_<i>.png and metadata_<i>.pt per batch. BlobexError: bad input, and `out` holding other files.
        """
        attribute_indices(attributes)
        setup = self._explain_setup(steps, lambda_prox, learning_rate)
        names, queries = self.load_pictures(images)
        self._masks(self.encode(queries[:1].to(self.device)).blobs, len(names), keys, blobs, background)  # errors first
        with result_folder(out) as folder:
            inversion = self.invert(queries.to(self.device))
            return self.explain_inverted(
                names, queries, inversion, attributes, keys, blobs, background, folder=folder, setup=setup
            )

    def explain_inverted(
        self,
        names: Sequence[str],
        queries: Tensor,
        inversion: Inversion,
        attributes: Sequence[str],
        keys: Sequence[str] | None = None,
        blobs: Blobs | None = None,
        background: bool | None = None,
        folder: Path | None = None,
        setup: ExplainSetup | None = None,
    ) -> list[Explanation]:
        """As `explain`, for pictures (N,3,height,width) in [-1,1] whose inversion is known; files go into `folder`."""
        indices = attribute_indices(attributes)
        named = {index: ATTRIBUTES[index] for index in indices}
        allowed = self._masks(inversion.layout.blobs, len(names), keys, blobs, background)
        records: list[Explanation] = []
        for number, chosen in enumerate(torch.arange(len(names)).split(self.params.explain.batch_size)):
            part, batch_names = inversion[chosen].to(self.device), [names[index] for index in chosen]
            batch = queries[chosen].to(self.device)
            masked = {key: mask[chosen] if len(mask) > 1 else mask for key, mask in allowed.items()}
            found = self.search(batch, part.layout, indices, masked, setup)
            batch_records = explanations(batch_names, self.setup, named, batch, part, found)
            records += batch_records
            if folder:
                write_metadata(folder, number, batch_names, part.layout, found)
                write_png(folder / f"snapshot_{number}.png", snapshot(batch_records))
        if folder:
            write_table(folder, records)
        return records

    def _masks(
        self, count: int, pictures: int, keys: Sequence[str] | None, blobs: Blobs | None, background: bool | None
    ) -> dict[str, Tensor]:
        if background is None:
            background = self.params.explain.background and blobs is None
        blobs = self.params.explain.blobs if blobs is None else blobs
        allowed = masks(count, self.params.explain.keys if keys is None else keys, blobs, background)
        listed = max(map(len, allowed.values()))
        if listed not in (1, pictures):
            raise BlobexError(f"blobs are listed for {listed} of {pictures} pictures: give one list, or one each")
        return allowed

    def invert(self, queries: Tensor) -> Inversion:
        """The blobs of pictures (N,3,height,width) in [-1,1], with the parameters' settings."""
        return invert(
            queries,
            encode=self.encode,
            render=self.render,
            decide_features=self.decide_features,
            perceptual=self.perceptual,
            setup=self.params.invert.square if self.setup == "square" else self.params.invert.rect,
            batch_size=self.params.invert.batch_size,
        )

    def search(
        self,
        queries: Tensor,
        start: BlobLayout,
        attributes: Sequence[int],
        allowed: dict[str, Tensor],
        setup: ExplainSetup | None = None,
    ) -> Counterfactuals:
        """The counterfactuals of inverted pictures; see `blobex.counterfactual.search.search`."""
        return search(
            queries,
            start,
            attributes,
            allowed,
            render=self.render,
            decide=self.decide,
            perceptual=self.perceptual,
            setup=setup or self._explain_setup(None, None, None),
            batch_size=self.params.explain.batch_size,
        )

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


def attribute_indices(names: Sequence[str]) -> list[int]:
    """The decision model's outputs of these names, each once; BlobexError if a name is unknown."""
    unknown = [name for name in names if name not in ATTRIBUTES]
    if unknown or not names:
        wrong = f"unknown attribute {unknown[0]!r}" if unknown else "no attribute to explain"
        raise BlobexError(f"{wrong}: choose from {', '.join(ATTRIBUTES)}")
    return [ATTRIBUTES.index(name) for name in dict.fromkeys(names)]


def snapshot(records: Sequence[Explanation]) -> np.ndarray:
    """A grid, uint8 (H,W,3): per picture its query, its reconstruction and one counterfactual per attribute."""
    count = len({record.attribute for record in records})
    titles = ["query", "reconstruction", *(record.attribute for record in records[:count])]
    rows = []
    for first in range(0, len(records), count):
        group = records[first : first + count]
        before = ", ".join(f"{record.attribute} {record.score_before:.2f}" for record in group)
        after = ", ".join(f"{record.attribute} {record.score_reconstruction:.2f}" for record in group)
        query = Cell(group[0].query, f"{Path(group[0].image).name}\n{before}")
        rows.append([query, Cell(group[0].reconstruction, after), *map(_counterfactual_cell, group)])
    return grid(titles, rows)


def _counterfactual_cell(record: Explanation) -> Cell:
    tone: Tone = "good" if record.verdict == "flipped" else "bad"
    scores = f"{record.attribute} {record.score_before:.2f} -> {record.score_after:.2f}"
    return Cell(record.counterfactual, f"{scores}\n{record.verdict}", tone)


def _on_shown(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The network on pictures as they can be shown: a decision about brighter than white explains nothing."""
    return lambda images: network(images.clamp(-1, 1))


def _rgb(array: np.ndarray) -> np.ndarray:
    """(H,W) or (H,W,3) uint8 as (H,W,3)."""
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise BlobexError(
            f"a picture array must be uint8 (H,W) or (H,W,3), not {array.dtype} {array.shape}: convert it"
        )
    return array


def _one_of(decision: str) -> str:
    if decision not in ("plain", "biased"):
        raise BlobexError(f"unknown decision model {decision!r}: choose plain or biased")
    return decision


def _check_size(folder: Path, kind: str, setup: str, height: int, width: int) -> None:
    """BlobexError unless the network in `folder` is for the setup's pictures."""
    saved = weights.read_config(folder, kind)
    found_height = saved.get("height", height)
    found_width = saved.get("width", found_height * saved.get("aspect_ratio", width // height))
    if (found_height, found_width, saved.get("setup", setup)) != (height, width, setup):
        raise BlobexError(
            f"the {kind} in {folder} is for {found_height}x{found_width} pictures but {setup} has {height}x{width}: "
            "give the models and parameters of one run"
        )
