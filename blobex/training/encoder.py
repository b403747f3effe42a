"""Training of the encoder in two phases (OCTET, Zemni et al., CVPR 2023, section 3.2 and appendix)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.training import Encoder as EncoderParams
from blobex.config.training import EncoderPretrain, Training
from blobex.datasets.images import to_float
from blobex.layout.blobs import blob_distance
from blobex.networks.blobgan import BlobGAN
from blobex.networks.encoder import Encoder
from blobex.training.fit import Batch, StepModule


class Perceptual(Protocol):
    """A perceptual distance whose targets are embedded once."""

    def embed(self, x: Tensor) -> Any: ...

    def distance_to(self, embedded: Any, x: Tensor) -> Tensor: ...


def build_encoder(params: EncoderPretrain, setup: ImageSize, blobgan: BlobGAN, seed: int) -> Encoder:
    """A fresh encoder to the activation before layer `mlp_idx` of the layout network."""
    w_size = blobgan.layout_network.w_size(params.mlp_idx)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(params.architecture, params.channels, setup.height, setup.aspect_ratio, w_size, params.mlp_idx)


class _EncoderModule(StepModule):
    """What both phases share. The frozen networks are kept out of the checkpoints."""

    def __init__(
        self, encoder: Encoder, blobgan: BlobGAN, training: Training, seed: int, config: dict[str, Any]
    ) -> None:
        super().__init__(training, seed, {"encoder": encoder.config, **config})
        self.encoder = encoder.train().requires_grad_(True).to(memory_format=torch.channels_last)
        self.frozen = [blobgan]  # in a list, so that it is no submodule
        self.learning_rate = training.learning_rate

    @property
    def blobgan(self) -> BlobGAN:
        return self.frozen[0].to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.encoder.parameters(), lr=self.learning_rate)

    @torch.no_grad()
    def generated(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """w (count,w_size) and the pictures that the generator makes of them."""
        z = torch.randn(count, self.blobgan.z_dim, generator=random, device=self.device)
        w = self.blobgan.layout_network.to_w(z, self.encoder.mlp_idx)
        return w, self.blobgan.render(self.blobgan.layout_from_w(w, self.encoder.mlp_idx))

    def encode(self, image: Tensor) -> Tensor:
        """w (N,w_size) of pictures, clamped to [-1,1] as picture files are."""
        return self.encoder(image.clamp(-1, 1))


class EncoderPretrainModule(_EncoderModule):
    """Phase 1, generated pictures only: mean squared error between encoder(G(w)) and w. Batches only count."""

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            w, image = self.generated(len(chunk[0]), random)
            error = F.mse_loss(self.encode(image), w)
            self.record(w_loss=error)
            return error

        self.descend(self.optimizers(), loss, batch)


@torch.no_grad()
def explained_variance(module: EncoderPretrainModule, batch_size: int, samples: int = 256) -> float:
    """The share of w's variance that the encoder explains on fresh generated pictures: 1 is perfect, 0 the mean."""
    module.encoder.eval()
    random = torch.Generator(module.device).manual_seed(0)
    found, wanted = [], []
    for start in range(0, samples, batch_size):
        w, image = module.generated(min(batch_size, samples - start), random)
        found.append(module.encode(image))
        wanted.append(w)
    w = torch.cat(wanted)
    return 1 - (F.mse_loss(torch.cat(found), w) / w.var(0, unbiased=False).mean()).item()


@dataclass(frozen=True)
class Judges:
    """The frozen networks that compare pictures."""

    perceptual: Perceptual
    decision_features: Callable[[Tensor], Tensor]  # pictures (N,3,height,width) to (N,D)


class EncoderModule(_EncoderModule):
    """Phase 2: real pictures, uint8 (N,3,height,width), and as many generated ones."""

    def __init__(self, encoder: Encoder, blobgan: BlobGAN, judges: Judges, params: EncoderParams, seed: int) -> None:
        weights = {"real": dataclasses.asdict(params.real), "generated": dataclasses.asdict(params.generated)}
        super().__init__(encoder, blobgan, params.training, seed, weights)
        self.params, self.judges = params, judges

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            return self.real_loss(to_float(chunk[0])) + self.generated_loss(len(chunk[0]), random)

        self.descend(self.optimizers(), loss, batch)

    def reconstruct(self, image: Tensor) -> Tensor:
        """What the generator paints of the blobs that the encoder reads from pictures."""
        return self.blobgan.render(self.blobgan.layout_from_w(self.encode(image), self.encoder.mlp_idx))

    def real_loss(self, image: Tensor) -> Tensor:
        """Real pictures have no known blobs: only pictures are compared."""
        weights = self.params.real
        remade = self.reconstruct(image)
        loss = self.picture_loss(image, remade, weights.perceptual, weights.l1, weights.l2, weights.decision)
        self.record(real_loss=loss)
        return loss

    def generated_loss(self, count: int, random: torch.Generator) -> Tensor:
        """Generated pictures: their blobs are compared too."""
        weights = self.params.generated
        w, image = self.generated(count, random)
        with torch.no_grad():
            target = self.blobgan.layout_from_w(w, self.encoder.mlp_idx)
        layout = self.blobgan.layout_from_w(self.encode(image), self.encoder.mlp_idx)
        remade = self.blobgan.render(layout)
        loss = self.picture_loss(image, remade, weights.perceptual, weights.l1, weights.l2, weights.decision)
        blobs = blob_distance(layout, target).mean()
        self.record(generated_loss=loss, blob_loss=blobs)
        return loss + weights.blobs * blobs

    def picture_loss(
        self, image: Tensor, remade: Tensor, perceptual: float, l1: float, l2: float, decision: float
    ) -> Tensor:
        """The weighted sum of the four distances between pictures; one of weight 0 is not computed."""
        loss = torch.zeros((), device=self.device)
        if perceptual:
            with torch.no_grad():
                embedded = self.judges.perceptual.embed(image)
            loss = loss + perceptual * self.judges.perceptual.distance_to(embedded, remade).mean()
        if l1:
            loss = loss + l1 * F.l1_loss(remade, image)
        if l2:
            loss = loss + l2 * F.mse_loss(remade, image)
        if decision:
            with torch.no_grad():
                wanted = self.judges.decision_features(image)
            loss = loss + decision * F.mse_loss(self.judges.decision_features(remade), wanted)
        return loss
