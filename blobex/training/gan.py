"""Training of the BlobGAN (Epstein et al., ECCV 2022, section 3.4; StyleGAN2, CVPR 2020)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.config.data import ImageSize
from blobex.config.training import Blobgan
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import checksum
from blobex.datasets.images import to_float
from blobex.layout.blobs import jitter
from blobex.networks.blobgan import BlobGAN
from blobex.networks.encoder import build_discriminator
from blobex.networks.ops import at_least_float32
from blobex.training.step_module import Batch, StepModule

BETAS = (0.0, 0.99)
EPSILON = 1e-5
RAMP = 0.05  # the half-life is at most this share of the images seen, so that initial weights are soon forgotten
# Returns the loss of rendering the images of a batch from their blobs, and the scalars to record.
Painting = Callable[[BlobGAN, Batch, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


class GanModule(StepModule):
    """Trains generator and discriminator, and averages the generator's weights.

    Batches hold real images, uint8 (N,3,height,width). Each step updates the generator and then the discriminator on
    the same generated images. With `painting`, batches also hold the ellipses of the images' blobs, and the generator
    is trained with the painting loss too, on half of each batch.
    """

    optimizer_steps = 2

    def __init__(self, params: Blobgan, size: ImageSize, seed: int, painting: Painting | None = None) -> None:
        unrelated = ("training", "sample_every_n_steps", "fid_every_n_steps", "fid_images", "mean_latent_samples")
        options = {key: value for key, value in dataclasses.asdict(params).items() if key not in unrelated}
        super().__init__(params.training, seed, {"setup": dataclasses.asdict(size), **options})
        self.params, self.painting = params, painting
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = BlobGAN(params.network, size.height, size.aspect_ratio)
            self.discriminator = build_discriminator(params.network, size.height, size.aspect_ratio)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # several times faster on CPUs, and no slower on GPUs

    def start_from(self, pretrained: BlobGAN) -> None:
        """Initialise the GAN and its moving average. Raises BlobexError if `pretrained` is another network."""
        if pretrained.config() != self.model.config():
            raise BlobexError("blobgan.network is not the pretrained network: run `dvc repro blobgan_pretrain`")
        for model in (self.model, self.average):
            model.load_state_dict(pretrained.state_dict())
        self.depends_on(pretrained=checksum(*pretrained.state_dict().values()))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW for both; the discriminator's is corrected for lazy R1 (StyleGAN2, appendix B)."""
        rate = self.params.training.learning_rate
        share = self.params.r1_every / (self.params.r1_every + 1)
        lazy = (BETAS[0] ** share, BETAS[1] ** share)
        options: dict[str, Any] = {"eps": EPSILON, "weight_decay": 0.0, "fused": self.fused}
        return [
            torch.optim.AdamW(self.model.parameters(), lr=rate, betas=BETAS, **options),
            torch.optim.AdamW(self.discriminator.parameters(), lr=rate * share, betas=lazy, **options),
        ]

    def training_step(self, batch: Batch, index: int) -> None:
        random, step = self.generator(), self.step
        generator_optimizer, discriminator_optimizer = cast(list[Any], self.optimizers())
        fakes: list[Tensor] = []

        def generator_part(chunk: Batch) -> Tensor:
            fakes.append(self.generate(len(chunk[0]), random))
            loss = generator_loss(self.discriminator(fakes[-1]))
            self.record(generator_loss=loss)
            if self.painting is None:
                return loss
            half = tuple(tensor[: -(-len(tensor) // 2)] for tensor in chunk)
            painting, parts = self.painting(self.model, half, random)
            self.record(**parts)
            return loss + self.params.painting_weight * painting

        def discriminator_part(chunk: Batch) -> Tensor:
            fake, penalised = fakes.pop(0).detach(), step % self.params.r1_every == 0
            real = to_float(chunk[0])
            return self.discriminate(flipped(real, random) if self.params.flips else real, fake, penalised)

        self.discriminator.requires_grad_(False)
        self.descend(generator_optimizer, generator_part, batch)
        self.discriminator.requires_grad_(True)
        self.descend(discriminator_optimizer, discriminator_part, batch)
        images = len(batch[0]) * self.trainer.world_size
        keep = ema_decay(images, images * (step + 1), self.params.ema_half_life_images)
        update_average(self.average, self.model, keep)

    def generate(self, count: int, random: torch.Generator) -> Tensor:
        """Render random, jittered layouts with random noise maps."""
        z = torch.randn(count, self.model.z_dim, generator=random, device=self.device)
        layout = jitter(self.model.sample(z), self.params.jitter, random)
        return self.model.render(layout, self.model.generator.random_noise(count, random))

    def discriminate(self, real: Tensor, fake: Tensor, penalised: bool) -> Tensor:
        """Return the discriminator's loss; if `penalised`, with the R1 penalty of all steps since the last one."""
        real.requires_grad_(penalised)
        real_logits = self.discriminator(real)
        loss = discriminator_loss(real_logits, self.discriminator(fake))
        self.record(discriminator_loss=loss)
        if penalised:
            penalty = r1_penalty(real_logits, real)
            self.record(r1=penalty)
            loss = loss + penalty * (self.params.r1_weight / 2 * self.params.r1_every)
        return loss


def flipped(images: Tensor, random: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = torch.rand(len(images), 1, 1, 1, generator=random, device=random.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def ema_decay(batch: int, images_seen: int, half_life_images: float) -> float:
    """Return the share of the moving average that remains after a batch (ramp of StyleGAN2-ADA, NeurIPS 2020)."""
    half_life = min(half_life_images, RAMP * images_seen)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Set parameters to keep * average + (1 - keep) * model; copy buffers (Karras et al., ICLR 2018, section 4)."""
    averages: list[Tensor] = list(average.parameters())
    torch._foreach_lerp_(averages, list(model.parameters()), 1 - keep)
    buffers: list[Tensor] = list(average.buffers())
    if buffers:
        torch._foreach_copy_(buffers, list(model.buffers()))


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Return the non-saturating logistic loss (Goodfellow et al., NeurIPS 2014).

    >>> generator_loss(torch.tensor([0.0]))  # log 2: the logits say nothing
    tensor(0.6931)
    """
    return F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the logistic loss, which is small if real images score high and generated ones low.

    >>> discriminator_loss(torch.tensor([0.0]), torch.tensor([0.0]))
    tensor(1.3863)
    """
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """Return the R1 penalty: the squared gradient of the logits at real images.

    Mescheder et al., ICML 2018, equation 9, without the factor gamma/2.

    >>> real = torch.zeros(2, 1, 1, 2, requires_grad=True)
    >>> r1_penalty(3 * real.sum((1, 2, 3)), real).item()  # two pixels, gradient 3 each
    18.0
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return at_least_float32(gradient).square().sum((1, 2, 3)).mean()
