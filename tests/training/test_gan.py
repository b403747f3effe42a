"""Training of the BlobGAN: who learns when, on what, and whether it can be interrupted."""

import copy
import dataclasses

import pytest
import torch
from worlds.profiles import profile_params
from worlds.tiny_networks import HEIGHT, TINY

from blobex.config.data import ImageSize, Run
from blobex.config.training import Jitter
from blobex.networks import encoder
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import EveryNSteps, fit
from blobex.training.gan import GanModule, discriminator_loss, flipped
from blobex.training.step_module import derive_seed

RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
SETUP = ImageSize(HEIGHT, 2)


@pytest.fixture(scope="module")
def params():
    blobgan = profile_params("smoke").blobgan
    return dataclasses.replace(blobgan, network=TINY, training=dataclasses.replace(blobgan.training, batch_size=4))


def training(params, **changes):
    return dataclasses.replace(params, training=dataclasses.replace(params.training, **changes))


def batches(step, count=4):
    random = torch.Generator().manual_seed(derive_seed(11, step))
    return (torch.randint(0, 256, (count, 3, SETUP.height, SETUP.width), generator=random, dtype=torch.uint8),)


def train(params, folder, module=None, batches=batches, run=RUN, callbacks=()):
    module = module or GanModule(params, SETUP, run.seed)
    fit(module, batches, params.training, run, folder, NullTracker(), callbacks)
    return module


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Watched(GanModule):
    """Records which networks each optimiser step changes, and the weights after each training step."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.changed, self.history, self.penalised = [], [], []

    def descend(self, optimizer, loss, batch):
        names = ("model", "discriminator", "average")
        before = {name: state(getattr(self, name)) for name in names}
        super().descend(optimizer, loss, batch)
        self.changed.append([name for name in names if not equal(before[name], getattr(self, name).state_dict())])

    def discriminate(self, real, fake, penalised):
        self.penalised.append(penalised)
        assert not fake.requires_grad and len(fake) == len(real)
        return super().discriminate(real, fake, penalised)

    def training_step(self, batch, index):
        super().training_step(batch, index)
        self.history.append(([p.detach().clone() for p in self.model.parameters()], list(self.average.parameters())))
        self.history[-1] = tuple([p.detach().clone() for p in part] for part in self.history[-1])


@pytest.fixture(scope="module")
def watched(params, tmp_path_factory):
    params = dataclasses.replace(training(params, steps=4), r1_every=2)
    module = Watched(params, SETUP, RUN.seed)
    module.start = [parameter.detach().clone() for parameter in module.average.parameters()]
    return train(params, tmp_path_factory.mktemp("watched"), module)


def test_each_step_changes_its_own_network_only(watched):
    assert watched.changed == [["model"], ["discriminator"]] * 4


def test_penalty_comes_every_few_steps(watched):
    assert watched.penalised == [True, False, True, False]


def test_average_follows_the_generator(watched, params):
    """average <- 2^(-batch / half-life) average + the rest of the generator, by hand in float64."""
    expected = [tensor.double() for tensor in watched.start]
    for step, (weights, averages) in enumerate(watched.history):
        seen = 4 * (step + 1)
        keep = 2 ** (-4 / min(params.ema_half_life_images, seen / 20))
        expected = [keep * old + (1 - keep) * new.double() for old, new in zip(expected, weights, strict=True)]
        for average, target in zip(averages, expected, strict=True):
            torch.testing.assert_close(average.double(), target, rtol=1e-4, atol=1e-6)


def test_stopped_and_resumed_equals_unbroken(params, tmp_path):
    whole, half = training(params, steps=4), training(params, steps=2)
    unbroken = train(whole, tmp_path / "unbroken")
    train(half, tmp_path / "broken")
    resumed = train(whole, tmp_path / "broken")
    assert equal(state(unbroken), resumed.state_dict())


def test_training_is_seeded(params, tmp_path):
    short = training(params, steps=2)
    first, again = (train(short, tmp_path / name) for name in "ab")
    other = train(short, tmp_path / "c", GanModule(short, SETUP, 4))
    assert equal(state(first), again.state_dict()) and not equal(state(first), other.state_dict())


def test_building_keeps_the_global_random_state(params):
    before = torch.random.get_rng_state()
    first, second = GanModule(params, SETUP, 0), GanModule(params, SETUP, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert equal(state(first), second.state_dict())
    assert equal(state(first.model), first.average.state_dict())


def test_generation_is_seeded_and_jittered(params):
    module = GanModule(params, SETUP, 0)
    with torch.no_grad():
        first, again, other = (module.generate(3, seeded(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 3, SETUP.height, SETUP.width)
    assert torch.equal(first, again) and not torch.equal(first, other)
    still = GanModule(dataclasses.replace(params, jitter=Jitter(0, 0, 0)), SETUP, 0)
    with torch.no_grad():
        assert not torch.allclose(still.generate(3, seeded(1)), first, atol=1e-4)


def test_penalty_counts_for_all_steps_since_the_last(params):
    """weight / 2 * r1_every * mean squared gradient norm, the gradient taken image by image."""
    params = dataclasses.replace(params, r1_weight=6.0, r1_every=5)
    module = GanModule(params, SETUP, 0)
    real, fake = torch.randn(2, 4, 3, SETUP.height, SETUP.width, generator=seeded(0))
    logits = discriminator_loss(module.discriminator(real), module.discriminator(fake))
    torch.testing.assert_close(module.discriminate(real.clone(), fake, penalised=False), logits)
    gradient = torch.autograd.functional.jacobian(lambda x: module.discriminator(x).sum(), real)
    penalty = sum(gradient[index].norm() ** 2 for index in range(4)) / 4
    loss = module.discriminate(real.clone(), fake, penalised=True)
    torch.testing.assert_close(loss, logits + 15 * penalty, rtol=1e-4, atol=1e-4)


def test_optimisers_allow_for_the_lazy_penalty(params):
    generator, discriminator = GanModule(params, SETUP, 0).configure_optimizers()
    assert params.r1_every == 16 and params.training.learning_rate == 0.002
    for optimizer, lr, beta in [(generator, 0.002, 0.99), (discriminator, 0.002 * 16 / 17, 0.99 ** (16 / 17))]:
        (group,) = optimizer.param_groups
        assert isinstance(optimizer, torch.optim.AdamW)
        assert group["lr"] == pytest.approx(lr) and group["betas"] == (0.0, pytest.approx(beta))
        assert group["eps"] == 1e-5 and group["weight_decay"] == 0


class Chunked(GanModule):
    """Latents that belong to the step and the sample, whatever the size of the chunk."""

    taken = 0

    def generate(self, count, random):
        z = torch.randn(8, TINY.z_dim, generator=seeded(derive_seed(5, self.step)))
        start = self.taken % 8
        self.taken += count
        return self.model.render(self.model.sample(z[start : start + count]))


def test_accumulated_chunks_equal_one_batch(params, tmp_path, monkeypatch):
    """Without the parts that depend on the batch: the standard deviation channel and random mirroring."""
    monkeypatch.setattr(encoder, "standard_deviation_map", lambda x: torch.zeros_like(x[:, :1]))

    def symmetric(step):
        (images,) = batches(step, 8)
        return (torch.cat([images[..., :HEIGHT], images[..., :HEIGHT].flip(3)], dim=3),)

    modules = []
    for batch_size, accumulate in [(8, 1), (4, 2)]:
        options = training(params, steps=3, batch_size=batch_size, accumulate=accumulate)
        module = Chunked(dataclasses.replace(options, r1_every=2), SETUP, RUN.seed)
        modules.append(train(options, tmp_path / str(accumulate), module, symmetric))
    whole, split = (module.state_dict() for module in modules)
    start = GanModule(params, SETUP, RUN.seed).state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(split[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    moved = [(whole[name] - tensor).abs().max() for name, tensor in start.items()]
    assert max(moved) > 1e-3  # well beyond the tolerance


def test_flipped_images_are_unchanged_or_mirrored():
    images = torch.randn(400, 3, 2, 4, generator=seeded(0))
    out = flipped(images, seeded(1))
    kept = (out == images).flatten(1).all(1)
    turned = (out == torch.flip(images, [3])).flatten(1).all(1)
    assert (kept ^ turned).all()
    assert 150 < turned.sum() < 250  # five standard deviations about 200
    assert torch.equal(out, flipped(images, seeded(1)))


def test_action_comes_every_n_steps_and_after_the_last(params, tmp_path):
    calls = []
    callbacks = [EveryNSteps(n, lambda step, module, n=n: calls.append((n, step))) for n in (0, 2, 10)]
    train(training(params, steps=5), tmp_path, callbacks=callbacks)
    assert sorted(calls) == [(2, 2), (2, 4), (2, 5), (10, 5)]


def test_training_in_bfloat16(params, tmp_path):
    module = train(training(params, steps=2), tmp_path, run=dataclasses.replace(RUN, precision="bfloat16"))
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in module.state_dict().values())


@pytest.mark.slow
def test_generator_learns_one_colour(params, tmp_path):
    """Real images are all of one colour; the average generator soon paints nothing else."""
    colour = torch.tensor([230, 40, 120], dtype=torch.uint8)
    options = training(params, steps=300, learning_rate=0.01)
    options = dataclasses.replace(options, ema_half_life_images=50.0, r1_weight=1.0, r1_every=4)
    module = GanModule(options, SETUP, RUN.seed)

    def error():
        z = torch.randn(8, TINY.z_dim, generator=seeded(9))
        with torch.no_grad():
            images = module.average.render(module.average.sample(z))
        return (images - (colour / 127.5 - 1)[:, None, None]).abs().mean().item()

    before = error()
    train(options, tmp_path, module, lambda step: (colour[None, :, None, None].expand(4, 3, 16, 32).clone(),))
    assert error() < 0.4 * before  # 0.08 after 0.44


def test_checkpoint_content(params):
    """Fingerprints are made of the module's config: network, image size and loss, but not how long it trains."""
    module = GanModule(params, SETUP, 0)
    assert module.config["setup"] == {"height": HEIGHT, "aspect_ratio": 2}
    assert module.config["r1_weight"] == params.r1_weight and "training" not in module.config
    assert copy.deepcopy(module.config) == GanModule(training(params, steps=9), SETUP, 0).config
