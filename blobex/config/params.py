"""All parameters of a run: params.yaml, one frozen dataclass per section."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic.dataclasses import dataclass

from blobex.config.data import Data, ImageSize, ImageSizes, Run, Scenes
from blobex.config.explain import Bench, Evaluate, Explain, Invert, Report, Search, Truth
from blobex.config.repair import Repair
from blobex.config.sweeps import SweepCf, SweepEncoder, SweepInvert
from blobex.config.training import (
    Blobgan,
    BlobganPretrain,
    ControlParams,
    DecisionParams,
    EncoderParams,
    EncoderPretrain,
    FidStats,
    ParserParams,
    WitnessParams,
)
from blobex.config.value_types import SECTION
from blobex.core.errors import BlobexError

IMAGE_TRAININGS = (
    "parser",
    "decision",
    "control",
    "blobgan_pretrain",
    "blobgan",
    "encoder_pretrain",
    "encoder",
    "repair",
)


@dataclass(frozen=True, config=SECTION)
class Params:
    run: Run
    data: Data
    setups: ImageSizes
    scenes: Scenes
    parser: ParserParams
    decision: DecisionParams
    control: ControlParams
    fid_stats: FidStats
    blobgan_pretrain: BlobganPretrain
    blobgan: Blobgan
    encoder_pretrain: EncoderPretrain
    encoder: EncoderParams
    witness: WitnessParams
    search: Search
    invert: Invert
    explain: Explain
    evaluate: Evaluate
    truth: Truth
    repair: Repair
    bench: Bench
    report: Report
    sweep_cf: SweepCf
    sweep_invert: SweepInvert
    sweep_encoder: SweepEncoder

    def published(self) -> Params:
        """Return a copy for the published search, which starts at the encoder's layout."""
        search, invert = replace(self.search, mode="published"), replace(self.invert, start="encoder")
        return replace(self, search=search, invert=invert)

    def for_setup(self, name: str) -> Params:
        """Return a copy whose batches count images of a setup, `run.batches: pictures`.

        Batch sizes in pixels are divided by the aspect ratio, so that a step takes the time and memory of a square one.
        """
        ratio = self.setup(name).aspect_ratio
        if self.run.batches == "pictures":
            return self

        def smaller(section: Any) -> Any:
            size = max(1, section.training.batch_size // ratio)
            return replace(section, training=replace(section.training, batch_size=size))

        sections = {key: smaller(getattr(self, key)) for key in IMAGE_TRAININGS}
        witness = self.witness
        witness = replace(witness, decision=smaller(witness.decision), reading=smaller(witness.reading))
        return replace(self, run=replace(self.run, batches="pictures"), witness=witness, **sections)

    def setup(self, name: str) -> ImageSize:
        """Return the image size of a setup; BlobexError if there is no such setup."""
        if name not in ("square", "rect"):
            raise BlobexError(f"unknown setup {name!r}: choose square or rect")
        return self.setups.square if name == "square" else self.setups.rect
