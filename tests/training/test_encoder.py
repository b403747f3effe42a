"""Training of the encoder in its two phases."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds.profiles import profile_params
from worlds.tiny_networks import HEIGHT, TINY, random_blobgan

from blobex.config.data import ImageSize, Run
from blobex.config.training import EncoderPretrain
from blobex.core.errors import BlobexError
from blobex.layout.blobs import blob_distance
from blobex.tracking.tracker import NullTracker
from blobex.training.encoder import (
    EncoderModule,
    EncoderPretrainModule,
    LossNetworks,
    build_encoder,
    explained_variance,
)
from blobex.training.fit import fit
from blobex.training.step_module import derive_seed

RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
SETUP = ImageSize(HEIGHT, 2)
COUNT = 8


@pytest.fixture(scope="module")
def params():
    return profile_params("smoke")


@pytest.fixture(scope="module")
def blobgan():
    return random_blobgan(aspect_ratio=2)


def options(params, **changes) -> EncoderPretrain:
    training = {key: value for key, value in changes.items() if key not in ("architecture", "mlp_idx")}
    others = {key: changes[key] for key in changes if key in ("architecture", "mlp_idx")}
    pretrain = dataclasses.replace(params.encoder_pretrain, channels=TINY.discriminator_channels, **others)
    return dataclasses.replace(pretrain, training=dataclasses.replace(pretrain.training, batch_size=COUNT, **training))


def pretrain(params, blobgan, **changes):
    chosen = options(params, **changes)
    encoder = build_encoder(chosen, SETUP, blobgan, RUN.seed)
    return EncoderPretrainModule(encoder, blobgan, chosen.training, RUN.seed, {"setup": "rect"})


def training_of(params, **changes):
    return options(params, **changes).training


def count(step):
    return (torch.arange(COUNT),)


def images(step):
    random = torch.Generator().manual_seed(derive_seed(11, step))
    return (torch.randint(0, 256, (COUNT, 3, SETUP.height, SETUP.width), generator=random, dtype=torch.uint8),)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


class MeanAbsolute:
    def embed(self, image):
        assert not torch.is_grad_enabled()
        return image

    def distance_to(self, embedded, image):
        return (embedded - image).abs().flatten(1).mean(1)


def colours(image):
    """Decision features of a model that sees the mean colour."""
    return 3 * image.mean((2, 3))


LOSS_NETWORKS = LossNetworks(MeanAbsolute(), colours)


class Losses(NullTracker):
    def __init__(self):
        self.metrics = []

    def log_metrics(self, metrics, step=None):
        self.metrics.append(dict(metrics))


@pytest.mark.parametrize("architecture", ["stylegan", "resnet"])
@pytest.mark.parametrize(("mlp_idx", "size"), [(-1, 12), (-4, 16)])
def test_encoder_output_is_w(params, blobgan, architecture, mlp_idx, size):
    encoder = build_encoder(options(params, architecture=architecture, mlp_idx=mlp_idx), SETUP, blobgan, 0)
    assert encoder(torch.zeros(2, 3, HEIGHT, 2 * HEIGHT)).shape == (2, size)
    assert encoder.mlp_idx == mlp_idx and encoder.config["w_size"] == size


def test_building_is_seeded_and_keeps_the_global_random_state(params, blobgan):
    before = torch.random.get_rng_state()
    first, again, other = (build_encoder(options(params), SETUP, blobgan, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert equal(state(first), again.state_dict()) and not equal(state(first), other.state_dict())


def test_layer_that_does_not_exist(params, blobgan):
    with pytest.raises(BlobexError, match="mlp_idx -9"):
        build_encoder(options(params, mlp_idx=-9), SETUP, blobgan, 0)


def test_levels_must_fit_the_image(params, blobgan):
    with pytest.raises(BlobexError, match="channels has the levels"):
        build_encoder(options(params), ImageSize(32, 2), blobgan, 0)


def test_phase_1_learns_and_keeps_the_generator(params, blobgan, tmp_path, monkeypatch):
    monkeypatch.setattr("blobex.training.fit.LOG_EVERY", 20)
    module, tracker, frozen = pretrain(params, blobgan, steps=100, learning_rate=0.01), Losses(), state(blobgan)
    before = explained_variance(module, 256)
    training = training_of(params, steps=100, learning_rate=0.01)
    seldom = dataclasses.replace(training.checkpoint, every_n_steps=20)  # losses are reported before each, too
    fit(module, count, dataclasses.replace(training, checkpoint=seldom), RUN, tmp_path, tracker)
    losses = [metrics["w_loss"] for metrics in tracker.metrics]
    assert len(losses) == 5 and losses[-1] < 0.8 * losses[0]
    assert explained_variance(module, 256) > max(before, 0.1)
    assert equal(frozen, blobgan.state_dict())
    assert all(parameter.grad is None for parameter in blobgan.parameters())
    assert all(name.startswith("encoder.") for name in module.state_dict())


def test_phase_1_stopped_and_resumed_equals_unbroken(params, blobgan, tmp_path):
    whole, half = training_of(params, steps=4), training_of(params, steps=2)
    modules = [pretrain(params, blobgan) for _ in range(3)]
    fit(modules[0], count, whole, RUN, tmp_path / "unbroken", NullTracker())
    fit(modules[1], count, half, RUN, tmp_path / "broken", NullTracker())
    fit(modules[2], count, whole, RUN, tmp_path / "broken", NullTracker())
    assert equal(state(modules[0]), modules[2].state_dict())


def test_frozen_resnet_is_set_to_training(params, blobgan):
    """An encoder comes from its file in evaluation mode; training moves its batch statistics too."""
    encoder = build_encoder(options(params, architecture="resnet"), SETUP, blobgan, 0).eval().requires_grad_(False)
    module = phase_2(params, blobgan, encoder)
    before = state(encoder)
    module.generated_loss(4, seeded(0)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    moved = [name for name, tensor in encoder.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved and all("running" in name or "num_batches" in name for name in moved)


def test_generated_images_are_rendered_from_w(params, blobgan):
    module = pretrain(params, blobgan)
    w, image = module.generated(3, seeded(0))
    assert torch.equal(image, blobgan.render(blobgan.layout_from_w(w)))
    assert torch.equal(w, blobgan.layout_network.to_w(torch.randn(3, TINY.z_dim, generator=seeded(0))))
    assert not torch.equal(w, module.generated(3, seeded(1))[0])


def test_encoder_input_is_clamped(params, blobgan):
    module = pretrain(params, blobgan)
    image = 3 * torch.randn(2, 3, HEIGHT, 2 * HEIGHT, generator=seeded(0))
    assert image.abs().max() > 1
    assert torch.equal(module.encode(image), module.encoder(image.clamp(-1, 1)))


class Stub(nn.Module):
    """Encoder with a given output; `scale` has a gradient."""

    def __init__(self):
        super().__init__()
        self.mlp_idx, self.config = -1, {}
        self.scale = nn.Parameter(torch.ones(()))
        self.w = torch.zeros(1, TINY.layout_hidden)

    def forward(self, image):
        return self.w * self.scale


def knowing(module, change=0.0):
    """Let the stub know w of whatever the module generates, off by `change`."""
    generated = module.generated

    def generate(count, random):
        w, image = generated(count, random)
        module.encoder.w = w + change
        return w, image

    module.generated = generate
    return module


def test_explained_variance_of_the_perfect_the_mean_and_the_wrong(params, blobgan):
    module = EncoderPretrainModule(Stub(), blobgan, training_of(params), 0, {})
    w, _ = module.generated(256, seeded(0))
    module.encoder.w = w.mean(0).expand_as(w)
    assert explained_variance(module, 256) == pytest.approx(0, abs=1e-5)
    assert explained_variance(knowing(module), 256) == pytest.approx(1)
    shift = math.sqrt(2 * w.var(0, unbiased=False).mean().item())
    module = EncoderPretrainModule(Stub(), blobgan, training_of(params), 0, {})
    assert explained_variance(knowing(module, shift), 256) == pytest.approx(-1, abs=1e-4)


def phase_2(params, blobgan, encoder, losses=LOSS_NETWORKS, real=None, generated=None):
    changed = dataclasses.replace(
        params.encoder,
        real=dataclasses.replace(params.encoder.real, **(real or {})),
        generated=dataclasses.replace(params.encoder.generated, **(generated or {})),
        training=training_of(params, steps=4),
    )
    return EncoderModule(encoder, blobgan, losses, changed, RUN.seed)


def test_phase_2_trains_the_encoder_only(params, blobgan, tmp_path):
    encoder, frozen = build_encoder(options(params), SETUP, blobgan, 0).eval().requires_grad_(False), state(blobgan)
    start = state(encoder)
    module = phase_2(params, blobgan, encoder)
    fit(module, images, module.params.training, RUN, tmp_path, NullTracker())
    assert equal(frozen, blobgan.state_dict()) and not equal(start, encoder.state_dict())
    assert all(tensor.isfinite().all() for tensor in encoder.state_dict().values())
    assert all(name.startswith("encoder.") for name in module.state_dict())


def test_phase_2_loss_of_a_perfect_encoder_is_0(params, blobgan):
    """Also where generated images leave [-1,1]."""
    module = knowing(phase_2(params, blobgan, Stub()))
    assert module.generated(4, seeded(0))[1].abs().max() > 1
    assert module.generated_loss(4, seeded(0)).item() == pytest.approx(0, abs=1e-6)


def test_phase_2_generated_loss_is_the_weighted_sum(params, blobgan):
    weights = {"perceptual": 2.0, "l1": 3.0, "l2": 0.5, "decision": 0.25, "blobs": 7.0}
    module = knowing(phase_2(params, blobgan, Stub(), generated=weights), change=0.3)
    loss = module.generated_loss(4, seeded(0))
    w = blobgan.layout_network.to_w(torch.randn(4, TINY.z_dim, generator=seeded(0)))
    target, shifted = blobgan.layout_from_w(w), blobgan.layout_from_w(w + 0.3)
    image, reconstruction = blobgan.render(target), blobgan.render(shifted)
    absolute, squared = (image - reconstruction).abs().mean(), (image - reconstruction).square().mean()
    decision = (colours(image) - colours(reconstruction)).square().mean()
    expected = 2 * absolute + 3 * absolute + 0.5 * squared + 0.25 * decision + 7 * blob_distance(shifted, target).mean()
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, module.encoder.scale)
    assert gradient.isfinite() and gradient != 0


def test_phase_2_blob_term_of_the_published_profile(params, blobgan):
    """METHOD.md, section 3: 10 times the mean over the six keys of the mean squared error."""
    weight = profile_params("published").encoder.generated.blobs
    weights = {"perceptual": 0.0, "l1": 0.0, "l2": 0.0, "decision": 0.0, "blobs": weight}
    module = knowing(phase_2(params, blobgan, Stub(), generated=weights), change=0.3)
    w = blobgan.layout_network.to_w(torch.randn(4, TINY.z_dim, generator=seeded(0)))
    target, shifted = blobgan.layout_from_w(w).as_dict(), blobgan.layout_from_w(w + 0.3).as_dict()
    for layout in (target, shifted):
        layout["sizes"] = layout["sizes"][:, 1:]  # entry 0 is never read
    errors = [F.mse_loss(shifted[key], target[key]) for key in target]
    torch.testing.assert_close(module.generated_loss(4, seeded(0)), 10 * torch.stack(errors).mean())


def test_phase_2_real_loss_compares_images_only(params, blobgan):
    weights = {"perceptual": 2.0, "l1": 0.0, "l2": 0.5, "decision": 0.25}
    module = phase_2(params, blobgan, Stub(), real=weights)
    w, reconstruction = module.generated(3, seeded(0))
    module.encoder.w = w
    image = torch.rand(reconstruction.shape, generator=seeded(1)) * 2 - 1
    expected = 2 * F.l1_loss(reconstruction, image) + 0.5 * F.mse_loss(reconstruction, image)
    expected = expected + 0.25 * F.mse_loss(colours(reconstruction), colours(image))
    torch.testing.assert_close(module.real_loss(image), expected)
    torch.testing.assert_close(module.reconstruct(image), reconstruction)


def test_terms_of_weight_0_are_not_computed(params, blobgan):
    def refuse(image):
        raise AssertionError("it must not be called")

    nothing = {"perceptual": 0.0, "l1": 0.0, "l2": 0.0, "decision": 0.0}
    module = phase_2(params, blobgan, Stub(), LossNetworks(None, refuse), nothing, {**nothing, "blobs": 1.0})
    knowing(module, change=0.3)
    assert module.real_loss(torch.zeros(2, 3, HEIGHT, 2 * HEIGHT)).item() == 0
    assert module.generated_loss(2, seeded(0)).item() > 0
