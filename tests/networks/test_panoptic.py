"""Panoptic maps by networks of the package transformers: tiny networks, and masks laid out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.networks.panoptic import SYNONYMS, PanopticNetwork, category_of, load_panoptic
from blobex.scenes.labels import SEMANTIC, UNKNOWN

ROAD, SKY, CAR, PERSON = (SEMANTIC.index(name) for name in ("road", "sky", "car", "person"))
NAMES = dict(enumerate(["Road", "car", "airplane", "sky-other-merged", "person"]))


def save_network(folder: Path, names: dict[int, str] = NAMES, sure: float = 100.0) -> Path:
    """A tiny Mask2Former with random weights, `sure` times as sure of its categories as a new network."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
        SwinConfig,
    )

    body = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=body,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        num_queries=12,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    torch.manual_seed(0)
    network = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        network.class_predictor.weight.mul_(sure)
    network.save_pretrained(folder)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_network(tmp_path_factory.mktemp("panoptic"))


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 32, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_maps_are_those_of_transformers(folder: Path) -> None:
    from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

    semantic, things = load_panoptic(folder)(pictures())
    assert semantic.shape == things.shape == (3, 32, 64) and semantic.dtype == things.dtype == torch.uint8
    network = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    processor = Mask2FormerImageProcessor.from_pretrained(folder)
    ours = {0: ROAD, 1: CAR, 2: UNKNOWN, 3: SKY, 4: PERSON}
    arrays = [((picture + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for picture in pictures()]
    with torch.no_grad():
        output = network(**processor(images=arrays, return_tensors="pt"))
    expected = processor.post_process_panoptic_segmentation(
        output, label_ids_to_fuse=set(), target_sizes=[(32, 64)] * 3
    )
    kinds = set()
    for index, result in enumerate(expected):
        labels = {segment["id"]: ours[segment["label_id"]] for segment in result["segments_info"]}
        for row in range(32):
            for column in range(64):
                number = int(result["segmentation"][row, column])
                assert semantic[index, row, column] == labels.get(number, UNKNOWN)
        kinds |= set(labels.values())
        counted = [label for label in labels.values() if label in (CAR, PERSON)]
        assert sorted(things[index].unique().tolist()) in ([*range(len(counted) + 1)], [*range(1, len(counted) + 1)])
    assert kinds & {CAR, PERSON} and kinds & {ROAD, SKY}  # the random network says enough for this to be a test


def test_batches_do_not_matter(folder: Path) -> None:
    network = load_panoptic(folder)
    whole, single = network(pictures()), [network(picture[None]) for picture in pictures()]
    for number in range(2):
        assert torch.equal(whole[number], torch.cat([maps[number] for maps in single]))
    assert not any(parameter.requires_grad for parameter in network.network.parameters())


class Network:
    """Says nothing; `Decoder` knows the answer."""

    config = SimpleNamespace(id2label=NAMES)
    device = torch.device("cpu")

    def __call__(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


class Inputs(dict):
    def to(self, _: torch.device) -> Inputs:
        return self


class Decoder:
    """Finds the same segments in every picture, numbered from 0 as some processors do."""

    def __init__(self, segmentation: Tensor, labels: list[int]) -> None:
        self.segmentation, self.labels = segmentation, labels

    def __call__(self, images: list[Tensor], return_tensors: str) -> Inputs:
        assert all(image.dtype == torch.uint8 for image in images)
        return Inputs(pixel_values=torch.stack(images))

    def post_process_panoptic_segmentation(self, outputs: Tensor, target_sizes: list[tuple[int, int]]) -> list[dict]:
        assert target_sizes == [tuple(picture.shape[1:]) for picture in outputs]
        info = [{"id": number, "label_id": label} for number, label in enumerate(self.labels)]
        return [{"segmentation": self.segmentation, "segments_info": info} for _ in outputs]


def test_things_are_counted_and_stuff_is_not() -> None:
    segmentation = torch.tensor([[-1, 0, 0, 1], [2, 3, 4, 5]])
    network = PanopticNetwork(Network(), Decoder(segmentation, [0, 1, 2, 1, 0, 4]))
    semantic, things = network(torch.zeros(2, 3, 2, 4))
    expected = [[UNKNOWN, ROAD, ROAD, CAR], [UNKNOWN, CAR, ROAD, PERSON]]
    assert semantic.tolist() == [expected, expected]
    assert things.tolist() == [[[0, 0, 0, 1], [0, 2, 0, 3]]] * 2


def test_category_names() -> None:
    assert [category_of(name) for name in SEMANTIC] == list(range(len(SEMANTIC)))  # Cityscapes' names
    assert category_of("Stop Sign") == SEMANTIC.index("traffic sign")
    assert category_of("tree-merged") == SEMANTIC.index("vegetation")
    assert category_of("zebra") == category_of("LABEL_0") == UNKNOWN
    assert set(SYNONYMS.values()) <= set(SEMANTIC)


def copy(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_what_is_missing_or_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    for number, part in enumerate(("config.json", "preprocessor_config.json", "model.safetensors")):
        partial = copy(folder, tmp_path / f"partial{number}")
        (partial / part).unlink()
        with pytest.raises(BlobexError, match=f"{part} is missing: put a panoptic model"):
            load_panoptic(partial)
        (partial / part).write_text("{")
        with pytest.raises(BlobexError, match="is damaged"):
            load_panoptic(partial)


def test_weights_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    partial = copy(folder, tmp_path / "partial")
    tensors = load_file(partial / "model.safetensors")
    del tensors["class_predictor.weight"]
    save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BlobexError, match="do not fit their config"):
        load_panoptic(partial)


def test_other_networks_are_refused(folder: Path, tmp_path: Path) -> None:
    other = copy(folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "oneformer"}))
    with pytest.raises(BlobexError, match="kind 'oneformer': put one of detr, eomt"):
        load_panoptic(other)
    nameless = save_network(tmp_path / "nameless", {0: "zebra", 1: "sofa"})
    with pytest.raises(BlobexError, match="knows no category of the road"):
        load_panoptic(nameless)
