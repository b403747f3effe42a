"""A GPU that is none: tensors that say that they lie on one, and refuse to be mixed with others as PyTorch's do."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda")
MIXING = ("copy_", "new_tensor")  # what takes tensors of both


def lies_there(tensor: Tensor) -> bool:
    return getattr(tensor, "_lies_there", False)


class SecondDevice(TorchFunctionMode):
    """Within it, `.to("cuda")` and `device="cuda"` work, and RuntimeError comes of mixing what a GPU would not mix.

    All is computed on the processor. Scalars may be mixed, tensors on the GPU may be indexed by others, and not the
    other way round.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if name == "__get__":  # an attribute
            if getattr(func.__self__, "__name__", "") == "device":
                return CUDA if lies_there(args[0]) else func(*args)
            return _placed(func(*args), lies_there(args[0]))
        if name == "cpu":
            return _moved(args[0], False)
        if name in ("numpy", "__array__") and lies_there(args[0]):
            raise TypeError("cannot convert a tensor on a GPU to numpy: copy it to the processor first")
        if name == "to":
            return self._to(func, args, kwargs)
        if kwargs.get("device") is not None:
            there = torch.device(kwargs.pop("device")).type == "cuda"
            return _placed(func(*args, **kwargs), there)
        there = _shared(name, args, kwargs)
        return _placed(func(*args, **kwargs), there)

    def _to(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        wanted = [each for each in (*args[1:], kwargs.pop("device", None)) if isinstance(each, torch.device | str)]
        others = [each for each in args[1:] if not isinstance(each, torch.device | str)]
        there = lies_there(args[0])
        for like in (each for each in others if isinstance(each, Tensor)):
            there = lies_there(like)
        there = torch.device(wanted[0]).type == "cuda" if wanted else there
        result = func(args[0], *others, **kwargs) if others or kwargs else args[0]
        return _moved(result, there)


def _moved(tensor: Tensor, there: bool) -> Tensor:
    return tensor if lies_there(tensor) == there else _placed(tensor.view_as(tensor), there)


def _shared(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether what comes of a call lies on the GPU; RuntimeError if the call mixes devices."""
    if name in ("__getitem__", "__setitem__"):
        indices = [tensor for tensor in _tensors(args[1]) if tensor.ndim and lies_there(tensor)]
        if indices and not lies_there(args[0]):
            raise RuntimeError("indices should be on the processor, as what they index is")
        return lies_there(args[0])
    tensors = list(_tensors([args, kwargs]))
    there = any(lies_there(tensor) for tensor in tensors)
    if there and name not in MIXING and any(tensor.ndim and not lies_there(tensor) for tensor in tensors):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device")
    return there


def _placed(result: Any, there: bool) -> Any:
    for tensor in _tensors(result):
        tensor._lies_there = there
    return result


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple | dict):
        for each in values.values() if isinstance(values, dict) else values:
            yield from _tensors(each)
