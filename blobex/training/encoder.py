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
from blobex.config.training import EncoderParams, EncoderPretrain, RealWeights, Training
from blobex.datasets.images import to_float
from blobex.layout.blobs import blob_distance
from blobex.networks.blobgan import BlobGAN
from blobex.networks.encoder import Encoder
from blobex.training.step_module import Batch, StepModule


class Perceptual(Protocol):
    """Perceptual distance with targets that are embedded once."""

    def embed(self, x: Tensor) -> Any: ...

    def distance_to(self, embedded: Any, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LossNetworks:
    """Frozen networks that compare images in phase 2."""

    perceptual: Perceptual
    decision_features: Callable[[Tensor], Tensor]  # images (N,3,height,width) to (N,D)


def build_encoder(params: EncoderPretrain, size: ImageSize, blobgan: BlobGAN, seed: int) -> Encoder:
    """Build an untrained encoder to the activation before layer `mlp_idx` of the layout network."""
    w_size = blobgan.layout_network.w_size(params.mlp_idx)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(params.architecture, params.channels, size.height, size.aspect_ratio, w_size, params.mlp_idx)


class _EncoderModule(StepModule):
    """Base class of both phases. Frozen networks are kept out of the checkpoints."""

    def __init__(
        self, encoder: Encoder, blobgan: BlobGAN, training: Training, seed: int, config: dict[str, Any]
    ) -> None:
        super().__init__(training, seed, {"encoder": encoder.config, **config})
        self.encoder = encoder.train().requires_grad_(True).to(memory_format=torch.channels_last)
        self._frozen = [blobgan]  # in a list, so that it is not registered as a submodule
        self.learning_rate = training.learning_rate

    @property
    def blobgan(self) -> BlobGAN:
        return self._frozen[0].to(self.device)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.encoder.parameters(), lr=self.learning_rate, fused=self.fused)

    @torch.no_grad()
    def generated(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random w (count,w_size) and the images that the generator renders from them."""
        z = torch.randn(count, self.blobgan.z_dim, generator=random, device=self.device)
        w = self.blobgan.layout_network.to_w(z, self.encoder.mlp_idx)
        return w, self.blobgan.render(self.blobgan.layout_from_w(w, self.encoder.mlp_idx))

    def encode(self, images: Tensor) -> Tensor:
        """Return w (N,w_size) of images, clamped to [-1,1] as image files are."""
        return self.encoder(images.clamp(-1, 1))


class EncoderPretrainModule(_EncoderModule):
    """Phase 1: mean squared error between encoder(G(w)) and w; only the length of a batch is used."""

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            w, images = self.generated(len(chunk[0]), random)
            error = F.mse_loss(self.encode(images), w)
            self.record(w_loss=error)
            return error

        self.descend(self.optimizers(), loss, batch)


@torch.no_grad()
def explained_variance(module: EncoderPretrainModule, batch_size: int, samples: int = 256) -> float:
    """Return the share of w's variance that the encoder explains on new generated images: 1 is perfect."""
    module.encoder.eval()
    random = torch.Generator(module.device).manual_seed(0)
    predictions, targets = [], []
    for start in range(0, samples, batch_size):
        w, images = module.generated(min(batch_size, samples - start), random)
        predictions.append(module.encode(images))
        targets.append(w)
    w = torch.cat(targets)
    return 1 - (F.mse_loss(torch.cat(predictions), w) / w.var(0, unbiased=False).mean()).item()


class EncoderModule(_EncoderModule):
    """Phase 2, on real images, uint8 (N,3,height,width), and as many generated ones."""

    def __init__(
        self, encoder: Encoder, blobgan: BlobGAN, losses: LossNetworks, params: EncoderParams, seed: int
    ) -> None:
        weights = {"real": dataclasses.asdict(params.real), "generated": dataclasses.asdict(params.generated)}
        super().__init__(encoder, blobgan, params.training, seed, weights)
        self.params, self.losses = params, losses

    def training_step(self, batch: Batch, index: int) -> None:
        random = self.generator()

        def loss(chunk: Batch) -> Tensor:
            return self.real_loss(to_float(chunk[0])) + self.generated_loss(len(chunk[0]), random)

        self.descend(self.optimizers(), loss, batch)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Render the blobs that the encoder predicts from images."""
        return self.blobgan.render(self.blobgan.layout_from_w(self.encode(images), self.encoder.mlp_idx))

    def real_loss(self, images: Tensor) -> Tensor:
        """Return the loss of real images, whose blobs are unknown: the distance to their reconstructions."""
        loss = self.image_loss(images, self.reconstruct(images), self.params.real)
        self.record(real_loss=loss)
        return loss

    def generated_loss(self, count: int, random: torch.Generator) -> Tensor:
        """Return the loss of generated images, which includes the distance of their blobs."""
        weights = self.params.generated
        w, images = self.generated(count, random)
        with torch.no_grad():
            target = self.blobgan.layout_from_w(w, self.encoder.mlp_idx)
        layout = self.blobgan.layout_from_w(self.encode(images), self.encoder.mlp_idx)
        loss = self.image_loss(images, self.blobgan.render(layout), weights)
        blobs = blob_distance(layout, target).mean()
        self.record(generated_loss=loss, blob_loss=blobs)
        return loss + weights.blobs * blobs

    def image_loss(self, images: Tensor, reconstruction: Tensor, weights: RealWeights) -> Tensor:
        """Return the weighted sum of four distances between images; a distance of weight 0 is not computed."""
        loss = torch.zeros((), device=self.device)
        if weights.perceptual:
            with torch.no_grad():
                embedded = self.losses.perceptual.embed(images)
            loss = loss + weights.perceptual * self.losses.perceptual.distance_to(embedded, reconstruction).mean()
        if weights.l1:
            loss = loss + weights.l1 * F.l1_loss(reconstruction, images)
        if weights.l2:
            loss = loss + weights.l2 * F.mse_loss(reconstruction, images)
        if weights.decision:
            with torch.no_grad():
                target = self.losses.decision_features(images)
            loss = loss + weights.decision * F.mse_loss(self.losses.decision_features(reconstruction), target)
        return loss
