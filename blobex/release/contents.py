"""What a release is made of: the networks of a setup, and what was measured of them."""

from __future__ import annotations

from dataclasses import dataclass

from blobex.core.errors import BlobexError
from blobex.release.pipeline import Part, Pipeline


@dataclass(frozen=True)
class Contents:
    """The networks of a setup, the later stages that measured them, and why nothing is there of others."""

    setup: str
    networks: list[Part]
    reports: list[Part]
    missing: dict[str, str]

    @property
    def parts(self) -> list[Part]:
        return self.networks + self.reports

    def metrics(self) -> dict[str, float]:
        """All measures, by names such as decision.plain.accuracy."""
        found = ((part.name.replace(" ", "."), part.measures()) for part in self.parts)
        return {f"{part}.{name}": value for part, measures in found for name, value in measures.items()}


def collect(pipeline: Pipeline, setup: str) -> Contents:
    """All that is there of a setup.

    What was measured of other networks, or with other parameters, is left out. BlobexError: a network is incomplete, or
    is not what dvc.lock records, or does not belong to the others and to the parameters.
    """
    found = Contents(setup, [], [], {})
    for part in pipeline.parts(setup):
        there = [path.is_file() for path in (part.outputs if part.network else [part.metrics])]
        fault = pipeline.fault(part.key) if any(there) else None
        if not any(there):
            found.missing[part.name] = "not trained" if part.network else "not measured"
        elif part.network and fault:
            raise BlobexError(f"{fault}: run `dvc repro {part.key}`, or `dvc commit -f {part.key}` if it may stay so")
        elif part.network and not all(there):
            missing = part.outputs[there.index(False)]
            raise BlobexError(f"{missing} is missing: run `dvc pull`, or `dvc repro {part.key}`")
        elif part.network:
            found.networks.append(part)
        elif fault:
            found.missing[part.name] = fault
        else:
            found.reports.append(part)
    for part in found.parts:
        part.measures(), part.imported()  # BlobexError if one of them is damaged
    return found
