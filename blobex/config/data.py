"""Parameters of a run as a whole, of its pictures and of the scenes that are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from blobex.config.limits import Within


@dataclass(frozen=True)
class Run:
    seed: Annotated[int, Within(0, 2**31 - 1)]  # of all that is drawn at random, but for the scenes
    device: Literal["auto", "cpu", "cuda"]  # auto: cuda where there is one
    devices: Annotated[int, Within(1, 64)]  # GPUs or processes of this machine that share each batch of a training
    precision: Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 where the machine computes in it
    batches: Literal["pixels", "pictures"]  # batch_size: of square pictures, wider ones being as many fewer; or of any
    tracking_uri: str  # MLflow's store; "none" turns tracking off
    artifacts: str | None  # where MLflow keeps files: s3://bucket/folder; null: beside its store
    s3_endpoint: str | None  # of an S3 server that is not Amazon's


@dataclass(frozen=True)
class ImageSize:
    height: Annotated[int, Within(16, 1024)]  # pixels
    aspect_ratio: Annotated[int, Within(1, 4)]  # width / height

    @property
    def width(self) -> int:
        return self.height * self.aspect_ratio


@dataclass(frozen=True)
class ImageSizes:
    square: ImageSize
    rect: ImageSize


@dataclass(frozen=True)
class Data:
    source: Literal["bdd100k", "folder"]  # folder: any pictures, without labels
    root: str  # holds bdd100k/ and bdd_oia/, or the pictures themselves
    cache: str | None  # decoded pictures are kept here; null: nowhere
    perceptual: Literal["parser", "vgg", "alex", "squeeze"]  # network of the perceptual distance
    frechet: Literal["parser", "inception", "inception_clean"]  # network of the Frechet distance; clean: by clean-fid
    external: str  # folder of weights from elsewhere; `make external` lists them


@dataclass(frozen=True)
class Scenes:
    height: Annotated[int, Within(16, 1024)]  # pixels; scenes are twice as wide
    seed: Annotated[int, Within(0, 2**31 - 1)]  # other seeds, other scenes
    detection_train: Annotated[int, Within(1, 10**6)]  # pictures with boxes and drivable areas
    detection_val: Annotated[int, Within(1, 10**6)]  # of the same kind, for measuring
    segmentation_train: Annotated[int, Within(1, 10**6)]  # pictures with semantic and panoptic maps
    segmentation_val: Annotated[int, Within(1, 10**6)]  # of the same kind, for measuring
    decision_train: Annotated[int, Within(1, 10**6)]  # pictures with actions and reasons
    decision_val: Annotated[int, Within(1, 10**6)]  # of the same kind, for measuring
    decision_test: Annotated[int, Within(1, 10**6)]  # of the same kind, for explaining
