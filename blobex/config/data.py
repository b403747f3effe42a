"""Parameters of a run as a whole, of its images and of the synthetic scenes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from blobex.config.value_types import SECTION, Int, Seed, Text


@dataclass(frozen=True, config=SECTION)
class Run:
    """Randomness, hardware and tracking of all stages."""

    seed: Seed = Field(description="seed of all random draws but those of the scenes")
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: cuda if available")
    devices: Int = Field(ge=1, le=64, description="GPUs or processes of this machine that share each training batch")
    precision: Literal["auto", "float32", "bfloat16"] = Field(description="auto: bfloat16 where it is clearly faster")
    batches: Literal["pixels", "pictures"] = Field(
        description="unit of batch_size. pixels: those of square images, so batches of wider images are smaller; "
        "pictures: images of any shape"
    )
    tracking_uri: Text = Field(description='MLflow tracking store; "none" turns tracking off')
    artifacts: Text | None = Field(
        description="folder of MLflow's artifacts, such as s3://bucket/folder; null: beside the tracking store"
    )
    s3_endpoint: Text | None = Field(description="URL of an S3 server other than Amazon's")


@dataclass(frozen=True, config=SECTION)
class ImageSize:
    height: Int = Field(ge=16, le=1024, description="pixels")
    aspect_ratio: Int = Field(ge=1, le=4, description="width / height")

    @property
    def width(self) -> int:
        return self.height * self.aspect_ratio


@dataclass(frozen=True, config=SECTION)
class ImageSizes:
    """Image size of each setup."""

    square: ImageSize = Field(description="image size of the setup square")
    rect: ImageSize = Field(description="image size of the setup rect")


@dataclass(frozen=True, config=SECTION)
class Data:
    """Images, labels and the networks that measure distances between images."""

    source: Literal["bdd100k", "folder"] = Field(
        description="bdd100k: images and labels laid out as in BDD100K and BDD-OIA; folder: any images, without labels"
    )
    root: Text = Field(description="folder that holds bdd100k/ and bdd_oia/, or the images themselves")
    cache: Text | None = Field(description="folder for decoded images; null: no cache")
    perceptual: Literal["parser", "vgg", "alex", "squeeze"] = Field(description="network of the perceptual distance")
    frechet: Literal["parser", "inception", "inception_clean"] = Field(
        description="network of the Frechet distance; inception_clean resizes images as clean-fid does"
    )
    similarity: Literal["parser", "simsiam"] = Field(
        description="network of the similarity of image and counterfactual; simsiam: the measure S3"
    )
    external: Text = Field(description="folder of third-party weights; `make external` lists them")


@dataclass(frozen=True, config=SECTION)
class Scenes:
    """Synthetic road scenes: size, seed and number of images of each split."""

    height: Int = Field(ge=16, le=1024, description="pixels; scenes are twice as wide")
    seed: Seed = Field(description="seed of all scenes")
    detection_train: Int = Field(ge=1, le=10**6, description="training images with boxes and drivable areas")
    detection_val: Int = Field(ge=1, le=10**6, description="validation images with boxes and drivable areas")
    segmentation_train: Int = Field(ge=1, le=10**6, description="training images with semantic and panoptic maps")
    segmentation_val: Int = Field(ge=1, le=10**6, description="validation images with semantic and panoptic maps")
    decision_train: Int = Field(ge=1, le=10**6, description="training images with actions and reasons")
    decision_val: Int = Field(ge=1, le=10**6, description="validation images with actions and reasons")
    decision_test: Int = Field(ge=1, le=10**6, description="test images with actions and reasons, to be explained")
