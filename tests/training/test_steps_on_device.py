"""What a training step must not do on a GPU: wait for it. And data that stay there."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from worlds.profiles import profile_params
from worlds.tiny_networks import HEIGHT, TINY

from blobex.config.data import ImageSize, Run
from blobex.config.training import Blobgan, BlobganPretrain, Resume
from blobex.layout.blobs import ABSENT
from blobex.networks import ops
from blobex.tracking.tracker import NullTracker
from blobex.training.fit import fit
from blobex.training.gan import GanModule
from blobex.training.painting import PaintModule
from blobex.training.step_module import CPU, Batch, StepModule, fits, sample_batches

SIZE, COUNT, STEPS = ImageSize(HEIGHT, 2), 4, 3
RUN = Run(3, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
# Operations whose result or shape the host must know, and copies from the host.
WAITING = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "is_nonzero", "equal", "unique")


class Waits(TorchDispatchMode):
    """Collects the operations that would make the host and a GPU wait for each other."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if masks or name.startswith(WAITING):
            self.found.append(name)
        return func(*args, **kwargs or {})


class _Watched(StepModule):
    """Watches all steps but the first, which may prepare constants."""

    found: list[list[str]]

    def training_step(self, batch: Batch, index: int) -> None:
        with Waits() as waits:
            super().training_step(batch, index)
        self.found = [*getattr(self, "found", []), waits.found]


class Gan(_Watched, GanModule):
    pass


class Painter(_Watched, PaintModule):
    pass


def short(section: Blobgan | BlobganPretrain) -> Any:
    checkpoint = dataclasses.replace(section.training.checkpoint, every_n_steps=100, monitor="step")
    training = dataclasses.replace(
        section.training,
        steps=STEPS,
        batch_size=COUNT,
        accumulate=1,
        checkpoint=checkpoint,
        resume=Resume("none", None, None),
    )
    return dataclasses.replace(section, training=training)


def paintings(step: int) -> Batch:
    random = torch.Generator().manual_seed(step)
    images = torch.randint(0, 256, (3, COUNT, 3, SIZE.height, SIZE.width), generator=random, dtype=torch.uint8)
    mask = torch.rand(COUNT, 1, SIZE.height, SIZE.width, generator=random) < 0.2
    blobs = torch.zeros(COUNT, TINY.blobs, dtype=torch.bool)
    blobs[:3, 0] = True
    places = torch.rand(2, COUNT, TINY.blobs, generator=random)
    covs, sizes = torch.randn(COUNT, TINY.blobs, 4, generator=random), torch.full((COUNT, TINY.blobs), 2.0)
    ellipses = [*places, covs, sizes]
    return (*images, mask, blobs, *ellipses[:3], sizes.where(~blobs, torch.tensor(ABSENT)), *ellipses)


def trained(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, run: Run = RUN) -> Any:
    """Train three steps; the GAN's are with, without and with the penalty."""
    params = profile_params("smoke")
    if kind == "gan":
        options = dataclasses.replace(short(params.blobgan), network=TINY, r1_every=2)
        module: Any = Gan(options, SIZE, run.seed)
    else:
        options = short(params.blobgan_pretrain)
        module = Painter(options, TINY, SIZE, None, run.seed)
    fit(module, lambda step: paintings(step), options.training, run, folder, NullTracker())
    return module


@pytest.mark.parametrize("kind", ["gan", "painter"])
def test_steps_do_not_wait_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(StepModule, "fused", True)  # as on a GPU: torch's other optimisers count steps on the host
    module = trained(kind, tmp_path, monkeypatch)
    assert module.found[1:] == [[], []]


def test_waits_are_seen() -> None:
    """The watcher finds what it should find."""
    values = torch.tensor([1.0, 2.0])
    with Waits() as waits:
        torch.tensor([1.0])
        values[0].item()
        values[values > 1]
        values.nonzero()
    assert waits.found == ["lift_fresh", "_local_scalar_dense", "index", "nonzero"]


def test_blur_kernels_are_made_once_and_carry_gradients() -> None:
    ops._kept_kernel.cache_clear()
    x = torch.randn(1, 2, 6, 6, requires_grad=True)
    with torch.inference_mode():
        ops.blur(x.detach(), 1, 2.0)
    ops.blur(x, 1, 2.0).sum().backward()  # a kernel of inference mode would raise
    assert ops._kept_kernel.cache_info().misses == 1 and x.grad is not None
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    assert torch.equal(ops._kernel(x, 2.0), (2 * row[:, None] * row).expand(2, 1, 4, 4))


def test_exported_programs_keep_no_kernel() -> None:
    """The tensors of an export stand for others: a kept one would break every later blur."""

    class Blur(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.upsample(x)

    ops._kept_kernel.cache_clear()
    x = torch.randn(2, 3, 4, 4)
    program = torch.export.export(Blur(), (x,))
    assert ops._kept_kernel.cache_info().currsize == 0
    assert torch.equal(program.module()(x), ops.upsample(x))


def test_data_stay_on_a_gpu_with_room_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.zeros(10, 100, dtype=torch.uint8), torch.zeros(10, 100, dtype=torch.uint8)
    gpu = torch.device("cuda", 0)
    for free, expected in ((4000, True), (3999, False)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _, free=free: (free, 10**9))
        assert fits(data, gpu) is expected
    assert not fits(data, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["gan", "painter"])
def test_steps_on_a_gpu_do_not_wait_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """CUDA raises an error at each wait of the second and third step."""
    step = _Watched.training_step

    def strict(self: Any, batch: Batch, index: int) -> None:
        torch.cuda.set_sync_debug_mode("error" if index else "default")
        try:
            step(self, batch, index)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(_Watched, "training_step", strict)
    cuda = dataclasses.replace(RUN, device="cuda", precision="bfloat16")
    module = trained(kind, tmp_path, monkeypatch, cuda)
    assert module.found[1:] == [[], []] and all(tensor.is_cuda for tensor in module.state_dict().values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_are_made_on_a_gpu() -> None:
    """The same samples as on the host."""
    data, training = (torch.arange(50, dtype=torch.uint8)[:, None],), short(profile_params("smoke").blobgan).training
    host, device = (sample_batches(data, 50, training, 1, place) for place in (CPU, torch.device("cuda", 0)))
    for number in range(20):
        (expected,), (found,) = host(number), device(number)
        assert found.is_cuda and torch.equal(found.cpu(), expected)
