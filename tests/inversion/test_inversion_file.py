"""The file of inversions is lossless where promised, and small."""

import dataclasses
from pathlib import Path

import pytest
import torch
from worlds.tiny_world import render, scenes, tiny_explainer

from blobex.datasets.images import to_float, to_uint8
from blobex.inversion.inversion import load_inversion, save_inversion

COUNT = 6


@pytest.mark.parametrize("eight_bits", [True, False])
def test_inversions_are_read_as_written(tmp_path: Path, eight_bits: bool) -> None:
    explainer, queries = tiny_explainer(), to_float(to_uint8(render(scenes(COUNT))))
    queries = queries if eight_bits else queries * 0.987654321
    inversion = explainer.invert(queries)
    path, names = tmp_path / "inversions.pt", [f"{number}.png" for number in range(COUNT)]
    save_inversion(path, names, queries, inversion)
    read_names, read_queries, read = load_inversion(path)
    assert read_names == names and torch.equal(read_queries, queries)
    for field in dataclasses.fields(inversion):
        written, found = getattr(inversion, field.name), getattr(read, field.name)
        if field.name == "layout":
            assert all(torch.equal(tensor, getattr(found, key)) for key, tensor in written.items())
        elif field.name == "image":
            off = (written - found).abs().max().item()
            assert 0 < off < 2 / 255 / 8 and found.dtype == torch.float32  # an eighth of a grey level
        else:
            assert torch.equal(written, found)
    pixels, layout = queries.numel(), sum(tensor.nbytes for _, tensor in inversion.layout.items())
    assert path.stat().st_size < pixels * (1 + 2 if eight_bits else 4 + 2) + layout + 8000
