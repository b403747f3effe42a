"""Inversions of a run that is not finished, one file an image, so that a stopped run does not invert them again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.files import whole_file
from blobex.explain.results_folder import ResultsFolder
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import concatenate, from_dict
from blobex.networks.weights import load_tensors, save_tensors
from blobex.optim.batching import ROW_MULTIPLE

MEASURES = tuple(field.name for field in dataclasses.fields(Inversion) if field.name != "layout")
Invert = Callable[[Tensor, int | None], Inversion]  # images (N,3,H,W), and steps: None: all


@dataclass(frozen=True)
class KeptInversions:
    """Inversions below a folder of results; without one (None) nothing is kept."""

    results: ResultsFolder | None
    device: torch.device
    search: Invert

    def invert(self, numbers: Sequence[int], queries: Tensor, settled: Tensor) -> Inversion:
        """Invert images with `numbers` and `queries` (N,3,H,W) on the CPU, each unless a file holds its inversion.

        On a CPU they are inverted and written in groups of ROW_MULTIPLE, which takes no longer than all at once.
        `settled` (N,) bool: images about which there is nothing to search; these keep the encoder's layout.
        """
        found = [self._read(number, query) for number, query in zip(numbers, queries, strict=True)]
        for steps, wanted in ((0, settled), (None, ~settled)):
            missing = [row for row in wanted.nonzero()[:, 0].tolist() if found[row] is None]
            size = ROW_MULTIPLE if self.results and self.device.type == "cpu" else max(1, len(missing))
            for first in range(0, len(missing), size):
                rows = missing[first : first + size]
                inverted = self.search(queries[rows], steps)
                for place, row in enumerate(rows):
                    found[row] = inverted[place : place + 1]
                    self._write(numbers[row], queries[row], inverted[place : place + 1])
        return _joined([inversion for inversion in found if inversion is not None])

    def _read(self, number: int, query: Tensor) -> Inversion | None:
        """Read the inversion of an image (3,H,W); None if there is none, or one of another image."""
        if self.results is None:
            return None
        try:
            content = load_tensors(self.results.inversion(number))
            same = torch.equal(content.pop("query"), query)
            inversion = Inversion(layout=from_dict(content.pop("layout")), **content)
            return inversion.to(self.device) if same else None
        except (OSError, AttributeError, LookupError, TypeError, ValueError):  # missing or damaged
            return None

    def _write(self, number: int, query: Tensor, inversion: Inversion) -> None:
        if self.results is None:
            return
        one = inversion.to("cpu")
        tensors = {name: getattr(one, name).detach() for name in MEASURES}
        self.results.write_settings()
        with whole_file(self.results.inversion(number)) as temporary:
            save_tensors(temporary, {"query": query, "layout": one.layout.as_dict(), **tensors})


def _joined(parts: Sequence[Inversion]) -> Inversion:
    """Concatenate inversions of one image each."""
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in MEASURES}
    return Inversion(layout=concatenate([part.layout for part in parts]), **tensors)
