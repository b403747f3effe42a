"""Simulated GPU: tensors that report the device cuda and cannot be mixed with tensors on the CPU."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda")
MIXING = ("copy_", "new_tensor")  # functions that accept tensors of both devices


def on_gpu(tensor: Tensor) -> bool:
    return getattr(tensor, "_on_gpu", False)


class SecondDevice(TorchFunctionMode):
    """Mode in which `.to("cuda")` and `device="cuda"` work, and mixing devices raises RuntimeError as on a GPU.

    All is computed on the CPU. Scalars may be mixed, and CPU tensors may index tensors on the GPU.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "__get__":  # an attribute
            if getattr(func.__self__, "__name__", "") == "device":
                return CUDA if on_gpu(args[0]) else func(*args)
            return _marked(func(*args), on_gpu(args[0]))
        if name == "cpu":
            return _moved(args[0], False)
        if name in ("numpy", "__array__") and on_gpu(args[0]):
            raise TypeError("cannot convert a tensor on a GPU to numpy: copy it to the processor first")
        if name == "to":
            return self._to(func, args, kwargs)
        if kwargs.get("device") is not None:
            gpu = torch.device(kwargs.pop("device")).type == "cuda"
            return _marked(func(*args, **kwargs), gpu)
        gpu = _shared(name, args, kwargs)
        return _marked(func(*args, **kwargs), gpu)

    def _to(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        targets = [value for value in (*args[1:], kwargs.pop("device", None)) if isinstance(value, torch.device | str)]
        others = [value for value in args[1:] if not isinstance(value, torch.device | str)]
        gpu = on_gpu(args[0])
        for like in (value for value in others if isinstance(value, Tensor)):
            gpu = on_gpu(like)
        gpu = torch.device(targets[0]).type == "cuda" if targets else gpu
        result = func(args[0], *others, **kwargs) if others or kwargs else args[0]
        return _moved(result, gpu)


def _moved(tensor: Tensor, gpu: bool) -> Tensor:
    return tensor if on_gpu(tensor) == gpu else _marked(tensor.view_as(tensor), gpu)


def _shared(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Return whether the result of a call is on the GPU; raise RuntimeError if the call mixes devices."""
    if name in ("__getitem__", "__setitem__"):
        indices = [tensor for tensor in _tensors(args[1]) if tensor.ndim and on_gpu(tensor)]
        if indices and not on_gpu(args[0]):
            raise RuntimeError("indices should be on the processor, as what they index is")
        return on_gpu(args[0])
    tensors = list(_tensors([args, kwargs]))
    gpu = any(on_gpu(tensor) for tensor in tensors)
    if gpu and name not in MIXING and any(tensor.ndim and not on_gpu(tensor) for tensor in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    return gpu


def _marked(result: Any, gpu: bool) -> Any:
    for tensor in _tensors(result):
        tensor._on_gpu = gpu
    return result


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple | dict):
        for value in values.values() if isinstance(values, dict) else values:
            yield from _tensors(value)
