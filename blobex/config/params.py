"""The truth of a run: params.yaml, one frozen dataclass per section."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from blobex.config.data import Data, ImageSize, ImageSizes, Run, Scenes
from blobex.config.explain import Explain, Invert, Search
from blobex.config.measures import Bench, Evaluate, Report, Truth
from blobex.config.sweeps import SweepCf, SweepEncoder, SweepInvert
from blobex.config.training import Blobgan, BlobganPretrain, Decision, Encoder, EncoderPretrain, FidStats, Parser
from blobex.core.errors import BlobexError

PICTURE_TRAININGS = ("parser", "decision", "blobgan_pretrain", "blobgan", "encoder_pretrain", "encoder")


@dataclass(frozen=True)
class Params:
    run: Run
    data: Data
    setups: ImageSizes
    scenes: Scenes
    parser: Parser
    decision: Decision
    fid_stats: FidStats
    blobgan_pretrain: BlobganPretrain
    blobgan: Blobgan
    encoder_pretrain: EncoderPretrain
    encoder: Encoder
    search: Search
    invert: Invert
    explain: Explain
    evaluate: Evaluate
    truth: Truth
    bench: Bench
    report: Report
    sweep_cf: SweepCf
    sweep_invert: SweepInvert
    sweep_encoder: SweepEncoder

    def published(self) -> Params:
        """The same, but for searches as in the published scripts, which begin at the encoder's blobs."""
        search, invert = replace(self.search, mode="published"), replace(self.invert, start="encoder")
        return replace(self, search=search, invert=invert)

    def for_setup(self, name: str) -> Params:
        """The same, but where run.batches says so for fewer of wider pictures: with the pixels of so many square ones.

        So a step takes both setups the same memory and time. What comes out counts pictures: it stays as it is when it
        is read again.
        """
        ratio = self.setup(name).aspect_ratio
        if self.run.batches == "pictures":
            return self
        trained: dict[str, Any] = {}
        for section in PICTURE_TRAININGS:
            part = getattr(self, section)
            size = max(1, part.training.batch_size // ratio)
            trained[section] = replace(part, training=replace(part.training, batch_size=size))
        return replace(self, run=replace(self.run, batches="pictures"), **trained)

    def setup(self, name: str) -> ImageSize:
        """The picture size of the setup called `name`."""
        if name not in ("square", "rect"):
            raise BlobexError(f"unknown setup {name!r}: choose square or rect")
        return self.setups.square if name == "square" else self.setups.rect
