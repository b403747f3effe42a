"""Computations of the page: samples, inversions, renderings and explanations of one setup's images."""

from __future__ import annotations

import dataclasses
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

from blobex.app.wire import short_name
from blobex.config.params import Params
from blobex.core.device import ALONE
from blobex.core.errors import BlobexError
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.target import AttributeTarget, ClassTarget, RegionTarget
from blobex.datasets.images import fit, load_image, to_array, to_float, to_tensor
from blobex.decisions.decision import Kind, frozen_eval
from blobex.explain.blob_listing import blob_names
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import FOREIGN, ImageShare, doubt
from blobex.explain.request import Output, Request
from blobex.inversion.inversion import Inversion
from blobex.inversion.invert import evaluate_layouts
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import half_axes
from blobex.layout.vector import VectorForm
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.networks.weights import CONFIG
from blobex.optim import network_callables

MAX_PIXELS = 20_000_000  # of an uploaded image
MAP_ROWS = 64  # most rows of the map of dominant blobs

OnStep = Callable[[Callable[[], Tensor]], None]  # called at each step with a function that makes its image (3,H,W)


@dataclass(frozen=True)
class Scene:
    """An image and its layout, on the CPU."""

    name: str
    photo: Tensor | None  # 3,H,W in [-1,1]; None: the image is the rendered layout
    start: BlobLayout  # of the photo
    layout: BlobLayout  # as edited

    @property
    def edited(self) -> bool:
        """True if the layout differs from the inverted photo's."""
        return not _equal(self.start, self.layout)


@dataclass(frozen=True)
class Drawing:
    """Image, blobs and decision of a scene."""

    image: Tensor  # 3,H,W in [-1,1]
    outlines: list[list[float]]  # per blob: x, y, half-axes (image heights), angle (radians)
    areas: list[float]  # shares of the image that background and blobs paint
    owners: np.ndarray  # dominant blobs (h,w), at most MAP_ROWS rows; -1: the background
    probabilities: list[float]  # of each output, or its share of the image


@dataclass
class Studio:
    """Networks of a setup, with decision models loaded on demand."""

    setup: str
    models: Path
    params: Params
    load: Callable[[str], Explainer]  # decision model's name -> explainer
    decisions: tuple[str, ...]  # names of the decision models, the default first
    explainers: dict[str, Explainer] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    frozen: ExitStack = field(default_factory=ExitStack)
    last: tuple[Explainer, Tensor, BlobLayout, Composer] | None = None  # composer of the last edited photo

    @classmethod
    def open(cls, setup: str, models: Path, params: Params, device: str | None, decision: str | None) -> Studio:
        """Load the networks of a setup; BlobexError as `Explainer.load`."""
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
        """Height and width of the images."""
        size = self.params.setup(self.setup)
        return size.height, size.width

    def explainer(self, decision: str | None = None) -> Explainer:
        """Return the explainer of one of `decisions` (None: the default); BlobexError for another name."""
        name = decision or self.decisions[0]
        if name not in self.decisions:
            raise BlobexError(f"there is no decision model {name[:40]!r} here: choose from {', '.join(self.decisions)}")
        with self.lock:
            if name not in self.explainers:
                explainer = self.load(name)
                # Permanent, as one thread must not restore flags while another computes.
                self.frozen.enter_context(frozen_eval(explainer.decision))
                self.explainers[name] = explainer
            return self.explainers[name]

    def sample(self, seed: int, truncation: float) -> Scene:
        """Draw a random scene."""
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            layout = self.generator.sample(torch.randn(1, self.generator.z_dim, generator=random), truncation)
        return Scene(f"scene_{seed}", None, layout, layout)

    def fitted(self, data: bytes, name: str) -> np.ndarray:
        """Decode an uploaded image, crop and resize it to uint8 (height,width,3); BlobexError if that fails."""
        label = short_name(name)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about its size, which is checked here
                with Image.open(io.BytesIO(data)) as image:
                    pixels = image.width * image.height
        except Image.DecompressionBombError:
            pixels = MAX_PIXELS + 1
        except Exception as error:  # damaged bytes make Pillow raise nearly anything
            raise BlobexError(f"{label} is not an image: give a PNG or JPEG file") from error
        if pixels > MAX_PIXELS:
            raise BlobexError(f"{label} has more than {MAX_PIXELS // 10**6} megapixels: make it smaller")
        with tempfile.TemporaryDirectory(prefix="blobex-") as folder:
            path = Path(folder) / "upload"
            path.write_bytes(data)
            try:
                return fit(load_image(path), *self.size)
            except BlobexError as error:
                raise BlobexError(str(error).replace(str(path), label)) from error

    def invert(self, image: np.ndarray, name: str, on_step: OnStep, decision: str | None = None) -> Scene:
        """Invert an image, uint8 (height,width,3); an exception of `on_step` ends the work."""
        photo = to_float(to_tensor(image))
        explainer = watched(self.explainer(decision), lambda _, rendered: on_step(lambda: rendered[0]))
        layout = explainer.invert(photo[None]).to("cpu").layout
        return Scene(name, photo, layout, layout)

    @torch.no_grad()
    def draw(self, scene: Scene, decision: str | None = None) -> Drawing:
        """Render a scene and evaluate its decision; BlobexError if the blobs render to values that are not finite."""
        explainer = self.explainer(decision)
        layout = scene.layout.to(explainer.device)
        image, scores = self.image(scene, explainer), explainer.exact.scores(layout)[0]
        if not (image.isfinite().all() and scores.isfinite().all()):
            raise BlobexError("these blobs cannot be rendered: undo the last change")
        outputs = explainer.exact.decide(image[None])
        if not outputs.isfinite().all():
            raise BlobexError(f"the model {explainer.decision.name} gives NaN or infinity for this image: take another")
        step = -(-scores.shape[1] // MAP_ROWS)
        owners = scores[:, step // 2 :: step, step // 2 :: step].argmax(0) - 1
        return Drawing(
            image.cpu(),
            outlines(scene.layout, self.generator.generator.canvas.area),
            scores.mean((1, 2)).tolist(),
            owners.cpu().numpy(),
            probabilities(explainer.decision.kind, outputs)[0].tolist(),
        )

    @torch.no_grad()
    def image(self, scene: Scene, explainer: Explainer) -> Tensor:
        """Return a scene's image (3,H,W) on the device: the photo with the edit pasted in, or the rendering."""
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
        """Return the composer of the scene's photo, cached for its next edit."""
        assert scene.photo is not None
        last = self.last
        if last and last[0] is explainer and torch.equal(last[1], scene.photo) and _equal(last[2], scene.start):
            return last[3]
        photo, start = scene.photo[None].to(explainer.device), scene.start.to(explainer.device)
        composer = Composer.over_queries(photo, start, explainer.exact, batch_size=1)
        self.last = explainer, scene.photo, scene.start, composer
        return composer

    def explain(
        self, scene: Scene, request: Request, on_step: OnStep, decision: str | None = None
    ) -> tuple[list[Explanation], bytes]:
        """Explain an edited scene; return also the zip file of the folder that `blobex explain` would write."""
        explainer = self.explainer(decision)
        query, layout = self.image(scene, explainer)[None].clamp(-1, 1), scene.layout.to(explainer.device)
        form, plan = VectorForm.of(layout), explainer.plan(request)
        composer = Composer.over_queries(query, layout, explainer.exact, batch_size=1) if plan.photo else None

        @torch.no_grad()
        def image(changed: BlobLayout, rendered: Tensor) -> Tensor:
            if composer is None:
                return rendered[0]
            vector = form.flatten(changed[:1]).float()
            return composer.compose(vector, torch.tensor([0]), form.changed(vector, form.flatten(layout)))[0]

        watching = watched(explainer, lambda changed, rendered: on_step(lambda: image(changed, rendered)))
        with tempfile.TemporaryDirectory(prefix="blobex-") as folder:
            out = Path(folder) / "results"
            inversion = _given_inversion(watching, query, layout)
            share = dataclasses.replace(
                ImageShare.of([scene.name], query.cpu(), ALONE), doubts=[self.doubt(scene, explainer)]
            )
            records = watching.explain_inverted(share, lambda _: inversion, plan, Output(out, gif=True))
            return records, _zipped(out)

    def doubt(self, scene: Scene, explainer: Explainer) -> str:
        """Return what is wrong with a scene's photo, of which only the part that the networks see is known."""
        if scene.photo is None:
            return ""
        image = to_array(scene.photo)
        odd = explainer.foreign is not None and explainer.foreign(scene.photo[None])[0]
        return doubt(image.shape[:2], image) or (FOREIGN if odd else "")


def watched(explainer: Explainer, watch: Callable[[BlobLayout, Tensor], None]) -> Explainer:
    """Return an explainer that calls `watch` with each layout and rendering of its searches; an error ends them."""

    def detached(layout: BlobLayout, images: Tensor) -> None:
        watch(layout.detach(), images.detach())

    quick, exact = (network_callables.watched(networks, detached) for networks in (explainer.quick, explainer.exact))
    return dataclasses.replace(explainer, quick=quick, exact=exact)


def _equal(one: BlobLayout, other: BlobLayout) -> bool:
    return all(torch.equal(tensor, getattr(other, key)) for key, tensor in one.items())


@torch.no_grad()
def _given_inversion(explainer: Explainer, queries: Tensor, layout: BlobLayout) -> Inversion:
    values = explainer.params.invert.square if explainer.setup == "square" else explainer.params.invert.rect
    step = torch.zeros(len(queries), dtype=torch.long, device=queries.device)
    return evaluate_layouts(queries, layout, layout, step, explainer.exact, values, explainer.batch_size)


def outlines(layout: BlobLayout, area: float) -> list[list[float]]:
    """Return the ellipse on which each blob of one image is half opaque, as sigmoid(size - squared distance) is 1/2.

    That is x, y (in [0, 1]), the half-axes along and across the blob's direction (image heights; 0: nowhere half
    opaque) and the direction's angle.
    """
    long, short = half_axes(layout.covs, area)
    reach = layout.sizes[:, 1:].clamp(min=0)
    angle = torch.atan2(layout.covs[..., 3], layout.covs[..., 2])
    rows = torch.stack([layout.xs, layout.ys, (reach * long).sqrt(), (reach * short).sqrt(), angle], dim=-1)
    return rows[0].tolist()


def probabilities(kind: Kind, outputs: Tensor) -> Tensor:
    """Convert outputs (N,A), or (N,A,H,W), to probabilities, or shares of the image, (N,A); numbers stay."""
    if kind == "regression":
        return outputs
    column = torch.zeros(len(outputs), dtype=torch.long, device=outputs.device)
    if kind == "attributes":
        return AttributeTarget(column, column > 0).scores(outputs)
    if kind == "classes":
        return ClassTarget(column).scores(outputs)
    whole = torch.ones_like(outputs[:, 0], dtype=torch.bool)
    return RegionTarget(column, outputs.argmax(1), whole).scores(outputs)


def _zipped(folder: Path) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return file.getvalue()
