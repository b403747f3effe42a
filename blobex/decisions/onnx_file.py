"""ONNX files as differentiable modules, through the converter of the extra `onnx`."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blobex.core.errors import BlobexError, brief

EXTRA = "pip install 'blobex[onnx]'"


class OnnxNetwork(nn.Module):
    """A converted file. Images are (N,3,H,W), also where the file takes (N,H,W,3)."""

    def __init__(self, network: nn.Module, shape: tuple[int | None, ...]) -> None:
        """Wrap the converter's module; `shape` is that of the file's input, None for free sizes."""
        super().__init__()
        self.network = network
        self.channels_last = shape[1] != 3 and shape[3] == 3
        n, *sizes = shape
        self.shape = (n, 3, sizes[0], sizes[1]) if self.channels_last else shape  # (N,3,H,W)

    def forward(self, images: Tensor) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's, about sizes that are computed while it runs
            return self.network(images.permute(0, 2, 3, 1) if self.channels_last else images)


def load_onnx(path: Path, device: torch.device) -> OnnxNetwork:
    """Load an ONNX file as a frozen module; no code from the file is run.

    Raises BlobexError if the file is missing or damaged, takes other inputs than images, has operations that the
    converter lacks, or if the converter is not installed.
    """
    if not path.is_file():
        raise BlobexError(f"there is no model {path}: check the path")
    try:
        onnx, converter = import_module("onnx"), import_module("onnx2pytorch")
    except ImportError as error:
        raise BlobexError(f"{path} needs a converter of ONNX files, which is not installed: {EXTRA}") from error
    try:
        model = onnx.load(str(path))
        shape = _image_shape(model.graph)
    except BlobexError as error:
        raise BlobexError(f"{path} {error}") from error
    except Exception as error:  # of protobuf, or missing files of weights
        words = brief(f"{type(error).__name__}: {error}")
        raise BlobexError(f"{path} cannot be read as an ONNX file ({words}): export it again") from error
    try:
        _simplify(model.graph)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = converter.ConvertModel(model, experimental=True)  # experimental: batches of several images
    except BlobexError as error:
        raise BlobexError(f"{path} {error}") from error
    except Exception as error:  # of the converter, of many kinds
        words = brief(f"{type(error).__name__}: {error}")
        raise BlobexError(
            f"{path} cannot be converted ({words}): export the model with torch.export.save instead"
        ) from error
    return OnnxNetwork(network, shape).to(device).eval().requires_grad_(False)


def _image_shape(graph: Any) -> tuple[int | None, ...]:
    """Return the shape of the only input, None for free sizes; BlobexError unless it is one of colour images."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [item for item in graph.input if item.name not in weights]
    shapes = [tuple(size.dim_value or None for size in item.type.tensor_type.shape.dim) for item in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or 3 not in (shapes[0][1] or 3, shapes[0][3] or 3):
        listed = ", ".join(f"{item.name} {list(shape)}" for item, shape in zip(inputs, shapes, strict=True))
        raise BlobexError(f"has the inputs {listed or 'none'}: export a model of one batch of images, (N,3,H,W)")
    return shapes[0]


def _simplify(graph: Any) -> None:
    """Remove what exporters add and the converter lacks: copies of weights, and the mode of batch normalisation."""
    results = {output.name for output in graph.output}
    copies = dict[str, str]()
    kept = []
    for node in graph.node:
        node.input[:] = [copies.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in results:
            copies[node.output[0]] = node.input[0]
            continue
        if node.op_type == "BatchNormalization":
            modes = [attribute for attribute in node.attribute if attribute.name == "training_mode"]
            for mode in modes:
                if mode.i:
                    raise BlobexError("was exported in training mode: export it again after eval()")
                node.attribute.remove(mode)
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
