"""All that the page asks for, computed: samples, inversions, renderings and explanations of one setup's pictures."""

from __future__ import annotations

import io
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blobex.app.watching import watched
from blobex.app.wire import short_name
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.ranks import ALONE
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.target import AttributeTarget, ClassTarget, RegionTarget
from blobex.datasets.images import fit, load_image, to_float, to_tensor
from blobex.decisions.decision import Kind, frozen_eval
from blobex.explain.batch import ImageShare
from blobex.explain.blob_names import blob_names
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.request import Output, Request
from blobex.inversion.evaluate import evaluate_layouts
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import half_axes
from blobex.layout.vector import VectorForm
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.networks.weights import CONFIG

MAX_PIXELS = 20_000_000  # of an uploaded picture
FINEST = 64  # rows of the map that says which blob is where

Look = Callable[[Callable[[], Tensor]], None]  # told at each step how to make its picture (3,H,W)


@dataclass(frozen=True)
class Scene:
    """A picture and its blobs, of one picture and on the CPU."""

    name: str
    photo: Tensor | None  # 3,H,W in [-1,1]; None: the picture is what the blobs are rendered as
    start: BlobLayout  # the photo's blobs
    layout: BlobLayout  # the same, edited

    @property
    def edited(self) -> bool:
        return not _same(self.start, self.layout)


@dataclass(frozen=True)
class Drawing:
    """What the page shows of a scene."""

    picture: Tensor  # 3,H,W in [-1,1]
    outlines: list[list[float]]  # of each blob: x, y, half-axis along, across (picture heights), angle (radians)
    areas: list[float]  # of background and blobs: the share of the picture that each paints
    owners: np.ndarray  # h,w, at most FINEST rows: which blob paints most there; -1 is the background
    said: list[float]  # of each of the model's outputs: its probability, or the share of the picture


@dataclass
class Studio:
    """The networks of a setup, and each model in question as soon as it is asked for."""

    setup: str
    models: Path
    params: Params
    load: Callable[[str], Explainer]  # by the decision's name
    decisions: tuple[str, ...]  # names that may be asked for, the first one first
    explainers: dict[str, Explainer] = field(default_factory=dict)
    loading: threading.Lock = field(default_factory=threading.Lock)
    rest: ExitStack = field(default_factory=ExitStack)
    last: tuple[Explainer, Tensor, BlobLayout, Composer] | None = None

    @classmethod
    def open(cls, setup: str, models: Path, params: Params, device: str | None, decision: str | None) -> Studio:
        """The studio of trained networks; BlobexError as `Explainer.load`."""
        first = decision or params.explain.decision
        folder = models / "decision" / setup
        others = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        names = tuple(dict.fromkeys([first, *others]))
        studio = cls(setup, models, params, lambda name: Explainer.load(setup, models, params, device, name), names)
        studio.explainer(first)
        return studio

    @cached_property
    def generator(self) -> BlobGAN:
        return load_blobgan(self.models / "blobgan" / self.setup)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return blob_names(self.models, self.setup, self.generator.network.blobs)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        size = self.params.setup(self.setup)
        return size.height, size.width

    def explainer(self, decision: str | None = None) -> Explainer:
        """The explainer of one of `decisions`, the first if None; BlobexError for any other name."""
        name = decision or self.decisions[0]
        if name not in self.decisions:
            raise BlobexError(f"there is no decision model {name[:40]!r} here: choose from {', '.join(self.decisions)}")
        with self.loading:
            if name not in self.explainers:
                explainer = self.load(name)
                # For good: searches and renderings in other threads must not find flags that another puts back.
                self.rest.enter_context(frozen_eval(explainer.decision))
                self.explainers[name] = explainer
            return self.explainers[name]

    def sample(self, seed: int, truncation: float) -> Scene:
        """A random scene, which the seed decides."""
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            layout = self.generator.sample(torch.randn(1, self.generator.z_dim, generator=random), truncation)
        return Scene(f"scene_{seed}", None, layout, layout)

    def fitted(self, data: bytes, name: str) -> np.ndarray:
        """An uploaded picture, cropped and resized to uint8 (height,width,3); BlobexError if it will not do."""
        shown = short_name(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that it is large, which is checked here
                with Image.open(io.BytesIO(data)) as image:
                    pixels = image.width * image.height
        except Image.DecompressionBombError:
            pixels = MAX_PIXELS + 1
        except Exception as error:  # damaged bytes make Pillow raise nearly anything
            raise BlobexError(f"{shown} is not an image: give a PNG or JPEG file") from error
        if pixels > MAX_PIXELS:
            raise BlobexError(f"{shown} has more than {MAX_PIXELS // 10**6} megapixels: make it smaller")
        with tempfile.TemporaryDirectory(prefix="blobex-") as folder:
            path = Path(folder) / "upload"
            path.write_bytes(data)
            try:
                return fit(load_image(path), *self.size)
            except BlobexError as error:
                raise BlobexError(str(error).replace(str(path), shown)) from error

    def invert(self, picture: np.ndarray, name: str, look: Look, decision: str | None = None) -> Scene:
        """The scene of a picture, uint8 (height,width,3); what `look` raises ends the work."""
        photo = to_float(to_tensor(picture))
        explainer = watched(self.explainer(decision), lambda _, rendered: look(lambda: rendered[0]))
        found = explainer.invert(photo[None]).to("cpu")
        return Scene(name, photo, found.layout, found.layout)

    @torch.no_grad()
    def draw(self, scene: Scene, decision: str | None = None) -> Drawing:
        """What the page shows of a scene; BlobexError if its blobs give numbers that are none."""
        explainer = self.explainer(decision)
        layout = scene.layout.to(explainer.device)
        picture, scores = self.picture(scene, explainer), explainer.exact.scores(layout)[0]
        if not (picture.isfinite().all() and scores.isfinite().all()):
            raise BlobexError("these blobs cannot be rendered: undo the last change")
        said = explainer.exact.decide(picture[None])
        step = -(-scores.shape[1] // FINEST)
        owners = scores[:, step // 2 :: step, step // 2 :: step].argmax(0) - 1
        return Drawing(
            picture.cpu(),
            outlines(scene.layout, self.generator.generator.canvas.area),
            scores.mean((1, 2)).tolist(),
            owners.cpu().numpy(),
            probabilities(explainer.decision.kind, said)[0].tolist(),
        )

    @torch.no_grad()
    def picture(self, scene: Scene, explainer: Explainer) -> Tensor:
        """(3,H,W) on the explainer's device: the photo with the edited blobs' change laid over it, or the rendering."""
        layout = scene.layout.to(explainer.device)
        if scene.photo is None:
            return explainer.exact.render(layout)[0]
        if not scene.edited:
            return scene.photo.to(explainer.device)
        form = VectorForm.of(layout)
        vector, start = form.flatten(layout), form.flatten(scene.start.to(explainer.device))
        composer = self._composer(scene, explainer)
        return composer.compose(vector, torch.tensor([0]), form.changed(vector, start))[0]

    def _composer(self, scene: Scene, explainer: Explainer) -> Composer:
        """What lays changes over the scene's photo; kept for the next edit of the same photo."""
        assert scene.photo is not None
        last = self.last
        if last and last[0] is explainer and torch.equal(last[1], scene.photo) and _same(last[2], scene.start):
            return last[3]
        photo, start = scene.photo[None].to(explainer.device), scene.start.to(explainer.device)
        composer = Composer.over_queries(photo, start, explainer.exact, batch_size=1)
        self.last = explainer, scene.photo, scene.start, composer
        return composer

    def explain(
        self, scene: Scene, request: Request, look: Look, decision: str | None = None
    ) -> tuple[list[Explanation], bytes]:
        """The explanations of a scene as it is edited, and the zip of the folder that `blobex explain` would write."""
        explainer = self.explainer(decision)
        query, layout = self.picture(scene, explainer)[None].clamp(-1, 1), scene.layout.to(explainer.device)
        form, plan = VectorForm.of(layout), explainer.plan(request)
        composer = Composer.over_queries(query, layout, explainer.exact, batch_size=1) if plan.photo else None

        @torch.no_grad()
        def shown(changed: BlobLayout, rendered: Tensor) -> Tensor:
            if composer is None:
                return rendered[0]
            vector = form.flatten(changed[:1]).float()
            return composer.compose(vector, torch.tensor([0]), form.changed(vector, form.flatten(layout)))[0]

        listening = watched(explainer, lambda changed, rendered: look(lambda: shown(changed, rendered)))
        with tempfile.TemporaryDirectory(prefix="blobex-") as folder:
            out = Path(folder) / "results"
            inversion = known(listening, query, layout)
            share = ImageShare.of([scene.name], query.cpu(), ALONE)
            found = listening.explain_inverted(share, lambda _: inversion, plan, Output(out, gif=True))
            return found, zipped(out)


def _same(one: BlobLayout, other: BlobLayout) -> bool:
    return all(torch.equal(tensor, getattr(other, key)) for key, tensor in one.items())


@torch.no_grad()
def known(explainer: Explainer, queries: Tensor, layout: BlobLayout) -> Inversion:
    """The inversion of pictures (N,3,H,W) whose blobs are known, measured as others are."""
    values = explainer.params.invert.square if explainer.setup == "square" else explainer.params.invert.rect
    step = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    return evaluate_layouts(queries, layout, layout, step, explainer.exact, values, explainer.batch_size)


def outlines(layout: BlobLayout, area: float) -> list[list[float]]:
    """The ellipse where each blob of one picture is half opaque: x, y (shares of width and height), the half-axes along
    and across the blob's direction (picture heights; 0 where it is nowhere half opaque) and that direction's angle.

    Its opacity is sigmoid(size - squared distance): one half where the squared distance is the size.
    """
    long, short = half_axes(layout.covs, area)
    reach = layout.sizes[:, 1:].clamp(min=0)
    angle = torch.atan2(layout.covs[..., 3], layout.covs[..., 2])
    rows = torch.stack([layout.xs, layout.ys, (reach * long).sqrt(), (reach * short).sqrt(), angle], dim=-1)
    return rows[0].tolist()


def probabilities(kind: Kind, outputs: Tensor) -> Tensor:
    """(N,A) of a model's outputs (N,A), or (N,A,H,W): probabilities, or the shares of the picture."""
    column = torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)
    if kind == "attributes":
        return AttributeTarget(column, column > 0).scores(outputs)
    if kind == "classes":
        return ClassTarget(column).scores(outputs)
    whole = torch.ones_like(outputs[:, 0], dtype=torch.bool)
    return RegionTarget(column, outputs.argmax(1), whole).scores(outputs)


def zipped(folder: Path) -> bytes:
    """The files of a folder as a zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return file.getvalue()
