"""Searches on a device other than the CPU do not mix tensors of both."""

import pytest
import torch
from worlds.second_device import CUDA, SecondDevice
from worlds.tiny_world import BLOBS, HEIGHT, PLAIN, WIDTH, MeanAbsolute, scenes, tiny_params

from blobex.counterfactual.object_examples import ObjectExamples, groups_of, objects_of, surfaces_of
from blobex.datasets.images import to_array
from blobex.explain.explainer import Explainer
from blobex.explain.request import Output, Request
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import splat_by_solver
from blobex.optim.network_callables import Networks

SLOTS = {"road": 1, "vehicle": 2, "vegetation": 1, "light": 1}


def scores(layout: BlobLayout) -> torch.Tensor:
    return splat_by_solver(layout, HEIGHT, WIDTH)  # of plain operations, which the second device checks


def render(layout: BlobLayout) -> torch.Tensor:
    return torch.einsum("nkhw,nkc->nchw", scores(layout), layout.features)


def explainer(steps: int, examples: bool) -> Explainer:
    """Return the explainer of `tiny_world.tiny_explainer` with its networks on the second device."""
    known = scenes(8)
    layouts, pictures = known.to(CUDA), render(known).to(CUDA)

    def encode(images: torch.Tensor) -> BlobLayout:
        nearest = (images[:, None] - pictures).square().flatten(2).mean(2).argmin(1)
        return layouts[nearest].map(lambda tensor: tensor + 0.01)

    networks = Networks(render, scores, encode, PLAIN.logits, PLAIN.features, MeanAbsolute())
    shown = torch.ones(6, sum(SLOTS.values()) + 1, dtype=torch.bool)
    others = ObjectExamples(scenes(6, seed=3), shown, objects_of(SLOTS), surfaces_of(SLOTS), groups_of(SLOTS)).to(CUDA)
    tried = others if examples else None
    return Explainer("rect", tiny_params(steps), CUDA, PLAIN, networks, networks, BLOBS, examples=tried)


def test_second_device_refuses_what_a_gpu_refuses() -> None:
    with SecondDevice():
        here, there = torch.arange(3), torch.arange(3).to("cuda")
        assert there.device == CUDA and there.cpu().device.type == here.device.type == "cpu"
        assert (there + 1).device == there[here].device == torch.zeros(2, device="cuda").device == CUDA
        for mixed in (lambda: here + there, lambda: here[there], lambda: torch.where(there > 1, here, there)):
            with pytest.raises(RuntimeError, match=r"device|processor"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize(
    ("steps", "examples", "asked"),
    [
        (20, False, {"attributes": ["stop", "left"]}),
        (1, False, {"attributes": ["stop", "left"]}),  # nothing flips at first: second search
        (1, False, {"attributes": ["stop"], "variant": "diverse"}),
        (20, False, {"attributes": ["stop"], "only": "0,0,1,0.6"}),
        (20, False, {"attributes": ["stop", "left"], "gate": "refine"}),
        (20, True, {"attributes": ["stop", "left"]}),
        (20, True, {"attributes": ["stop", "left"], "blobs": [[4], [4], [1]]}),
        (5, True, {"attributes": ["stop"], "variant": "diverse"}),
    ],
)
def test_explanations(steps, examples, asked, tmp_path) -> None:
    pictures = [to_array(picture) for picture in render(scenes(8))[:3]]
    with SecondDevice():
        found = explainer(steps, examples).explain(pictures, Request(**asked), Output(tmp_path / "out", gif=True))
    assert len(found) == 3 * len(asked["attributes"]) * (3 if asked.get("variant") == "diverse" else 1)
    assert all(each.verdict for each in found)
