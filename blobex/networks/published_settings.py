"""Settings (`hyper_parameters`) of published BlobGAN checkpoints.

None is rounded, ignored or replaced by a default without a word: each is used, or compared with the tensors, or listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.layout.splat import AREA
from blobex.networks.layout_network import LEARNING_RATE_MULTIPLIER

T = TypeVar("T")
MISSING = object()
REFERENCE = re.compile(r"\$\{(?:model\.)?([^${}]+)\}")  # to another setting, as OmegaConf writes it
NETWORKS = ("generator", "layout_net")  # of a BlobGAN, whose settings are one level deeper
HOLDERS = ("args", "config", "hyper_parameters")  # of settings in files of other networks
# Settings that do not change what a trained network computes: of training, or read by nothing in the published code.
UNUSED = re.compile(
    r"name|dim|n_features|lr|eps|discriminator|lambda|\u03bb|p_mixing_noise|n_ema_sample|freeze_G|[DG]_reg_every|path_len"
    r"|accumulate|validate_gradients|ipdb_on_nan|valtest_log_all|flush_cache_every_n_steps|log_\w+|fid_\w+"
    r"|feature_splat_temp|feature_jitter_\w+|generator\.(name|n_mlp|lr_mlp)"
    r"|layout_net\.(name|mlp_trunk_n_layers|feature_jitter_xy|shift_bias|shift_scale|aspect_ratio)"
)


@dataclass
class Settings:
    """Settings of a checkpoint, and which of them have been read."""

    tree: Mapping[str, Any]
    used: dict[str, Any] = field(default_factory=dict)  # by their dotted paths
    defaults: dict[str, Any] = field(default_factory=dict)  # published defaults of settings that the file lacks

    def read(self, convert: Callable[[str, Any], T], *paths: str) -> T | None:
        """Return the converted setting at the `paths`, which must agree; None if the file has none of them."""
        present = {path: value for path in paths if (value := self._at(path)) is not MISSING}
        values = {path: convert(path, value) for path, value in present.items()}
        if len(set(values.values())) > 1:
            both = ", ".join(f"{path}: {value}" for path, value in values.items())
            raise BlobexError(f"its settings disagree ({both}): give another file")
        self.used |= values
        return next(iter(values.values()), None)

    def read_or(self, default: T, convert: Callable[[str, Any], T], *paths: str) -> T:
        """Return the setting as `read` does, or the published default, which is noted."""
        value = self.read(convert, *paths)
        if value is None:
            self.defaults[paths[0]] = default
            return default
        return value

    def check(self, path: str, *supported: Any) -> None:
        """Raise BlobexError if the file has the setting with a value that is not among the supported ones."""
        value = self._at(path)
        if value is MISSING or _reference(value):  # an open reference counts as unknown
            return
        if value not in supported:
            raise BlobexError(f"its setting {path} is {value!r} where blobex needs {supported[0]!r}: give another file")
        self.used[path] = value

    def provenance(self) -> dict[str, list[str]]:
        """Return what has been used, defaulted and not used of all settings, one text each."""
        names = list[str]()
        for name, value in self.tree.items():
            deeper = name in NETWORKS + HOLDERS and isinstance(value, Mapping)
            names += [f"{name}.{each}" for each in value] if deeper else [str(name)]
        rest = [name for name in names if name not in self.used]
        return {
            "settings": [f"{name}: {value}" for name, value in self.used.items()],
            "defaults": [f"{name}: {value}" for name, value in self.defaults.items()],
            "unused": [name for name in rest if UNUSED.fullmatch(name)],
            "unknown": [f"{name}: {_at(self.tree, name)}" for name in rest if not UNUSED.fullmatch(name)],
        }

    def _at(self, path: str, depth: int = 0) -> Any:
        """Return the value at a path; of a reference, the value that it stands for if the file has it."""
        value = _at(self.tree, path)
        target = _reference(value)
        if target is None or depth > len(self.tree):
            return value
        other = self._at(target, depth + 1)
        return value if other is MISSING else other


def _at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key, MISSING) if isinstance(tree, Mapping) else MISSING
    return tree


def _reference(value: Any) -> str | None:
    match = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return match[1] if match else None


def whole(path: str, value: Any) -> int:
    """Convert a whole number; raise BlobexError for any other value, as rounding would build another network."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise BlobexError(f"its setting {path} is {value!r}: blobex needs a whole number, give another file")
    return int(value)


def number(path: str, value: Any) -> float:
    """Convert a number; raise BlobexError for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BlobexError(f"its setting {path} is {value!r}: blobex needs a number, give another file")
    return float(value)


def flag(path: str, value: Any) -> bool:
    """Convert True and False, also as 1 and 0; raise BlobexError for any other value."""
    if value not in (True, False):
        raise BlobexError(f"its setting {path} is {value!r}: blobex needs true or false, give another file")
    return bool(value)


def multiplier(settings: Settings) -> float:
    """Return the learning-rate multiplier of the layout network, a factor of its weights."""
    return settings.read_or(LEARNING_RATE_MULTIPLIER, number, "layout_net.mlp_lr_mul")


def generator_config(
    generator: Mapping[str, Tensor], layout: Mapping[str, Tensor], settings: Settings
) -> dict[str, Any]:
    """Return the config of the BlobGAN, as `from_config` needs it, from its tensors and settings.

    Raises BlobexError if a setting contradicts the tensors or another setting, or blobex does not support it.
    """
    layers = sum(name.endswith(".weight") for name in layout)
    first, last = layout["mlp.1.weight"], layout[f"mlp.{layers}.weight"]
    feature_dim = generator["conv1.conv.weight"].shape[2]
    style_dim = generator["conv1.conv.modulation.weight"].shape[1]
    levels = sum(name.startswith("to_rgbs.") and name.endswith(".conv.weight") for name in generator)
    convolutions = ["conv1", *(f"convs.{2 * level}" for level in range(levels))]
    widths = [generator[f"{convolution}.conv.weight"].shape[1] for convolution in convolutions]
    height, size_in = settings.read(whole, "resolution", "generator.size"), settings.read(whole, "generator.size_in")
    if height is None and size_in is None:
        raise BlobexError("the checkpoint's hyper_parameters name no resolution: give a published BlobGAN file")
    height = (size_in or 0) << levels if height is None else height
    network = {
        "blobs": (last.shape[0] - 1 - feature_dim - style_dim) // (7 + feature_dim + style_dim),
        "blob_area": settings.read_or(AREA, number, "ab_norm", "layout_net.ab_norm"),
        "size_in": height >> levels,
        "feature_dim": feature_dim,
        "style_dim": style_dim,
        "layout": "mlp",
        "z_dim": first.shape[1],
        "layout_hidden": last.shape[1],
        "layout_layers": layers,
        "norm_features": settings.read_or(False, flag, "layout_net.norm_features"),
        "channels": {(height >> levels) << level: width for level, width in enumerate(widths)},
        "discriminator_channels": {},
        "rectangle": "legacy",
    }
    aspect_ratio = settings.read_or(1, whole, "aspect_ratio", "generator.aspect_ratio")
    _check(settings, network)
    return {"network": network, "height": height, "aspect_ratio": aspect_ratio}


def _check(settings: Settings, network: Mapping[str, Any]) -> None:
    """Compare the other settings with the tensors; refuse those that make published layouts random."""
    for names, value in (
        ("noise_dim layout_net.noise_dim", network["z_dim"]),
        ("n_features_min n_features_max layout_net.n_features_max", network["blobs"]),
        ("generator.style_dim layout_net.style_dim", network["style_dim"]),
        ("layout_net.feature_dim", network["feature_dim"]),
        ("layout_net.mlp_n_layers", network["layout_layers"]),
        ("layout_net.mlp_hidden_dim", network["layout_hidden"]),
        ("generator.size_in", network["size_in"]),
        ("generator.c_out", 3),
        ("spatial_style generator.spatial_style layout_net.spatial_style", True),
        ("generator.const_in layout_net.shuffle_features", False),
        ("layout_net.p_swap_style layout_net.feature_dropout", 0),
    ):
        for name in names.split():
            settings.check(name, value)
    feature_dim, first = network["feature_dim"], network["channels"][network["size_in"]]
    settings.check("generator.override_c_in", feature_dim, *((None, 0) if feature_dim == first else ()))
    c_model = settings.read(whole, "generator.c_model")
    if c_model is not None:
        factor = settings.read_or(2, whole, "generator.channel_multiplier")
        for height, width in network["channels"].items():
            published = c_model * (8 if height <= 32 else 256 // height * factor)  # halved at each doubling
            if width != published:
                raise BlobexError(
                    f"its setting generator.c_model is {c_model}, which gives {published} channels at height {height}, "
                    f"but its tensors have {width}: give another file"
                )
