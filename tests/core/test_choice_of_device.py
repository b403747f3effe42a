"""Choice of device, precision and batch size from parameters and hardware."""

from __future__ import annotations

import pytest
import torch

from blobex.core.device import CPU_PIXELS, batch_pixels, resolve_device, resolve_precision


def test_each_process_of_a_machine_has_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert resolve_device("auto") == torch.device("cuda")
    for rank, index in (("0", 0), ("1", 1), ("2", 0)):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", index)
        assert resolve_device("cpu") == torch.device("cpu")


def test_precision() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("float32", cpu) == "float32"
    assert resolve_precision("auto", torch.device("cuda")) == "bfloat16"
    assert resolve_precision("bfloat16", cpu) == "bfloat16"


def test_pixels_of_a_search() -> None:
    """A given limit is used; otherwise the processor's."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert batch_pixels(5000, cpu) == batch_pixels(5000, cuda) == 5000
    assert batch_pixels(None, cpu) == CPU_PIXELS


@pytest.mark.parametrize(("memory", "pixels"), [(2**20, CPU_PIXELS), (2**34, 2**18), (2**37, 2**21)])
def test_pixels_of_a_gpu(monkeypatch, memory, pixels) -> None:
    class Properties:
        total_memory = memory

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    assert batch_pixels(None, torch.device("cuda")) == pixels
