"""The explainer in a world whose cause is known, and the loading of networks from their folders."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_world import BLOBS, HEIGHT, WIDTH, decide, render, scenes, tiny_explainer, tiny_params
from torch import Tensor

from blobex import config, explainer
from blobex.config import Network
from blobex.counterfactual.result import read_table
from blobex.datasets.images import load_image, to_array
from blobex.errors import BlobexError
from blobex.explainer import Explainer, attribute_indices, snapshot
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.networks.decision import DecisionModel, load_decision
from blobex.networks.encoder import Encoder, load_encoder
from blobex.networks.parser import Parser

NETWORK = Network(
    blobs=3,
    size_in=8,
    feature_dim=8,
    style_dim=8,
    z_dim=8,
    layout_hidden=16,
    layout_layers=3,
    norm_features=True,
    channels={8: 8, 16: 8, 32: 8},
    discriminator_channels={4: 8, 8: 8, 16: 8, 32: 8},
    rectangle="native",
)


def pictures(count: int) -> list[np.ndarray]:
    return [to_array(picture) for picture in render(scenes(8))[:count]]


def test_the_light_is_found_as_the_cause(tmp_path: Path) -> None:
    records = tiny_explainer().explain(pictures(6), ["stop"], keys=["appearance"], blobs=[4], out=tmp_path / "out")
    assert [record.verdict for record in records] == ["flipped"] * 6
    assert [record.from_class for record in records] == [True, False] * 3  # red, green, red, ...
    for record in records:
        before, after = record.blobs_before, record.blobs_after
        changed = (before.features != after.features).any(2)[0]
        assert changed.tolist() == [False] * BLOBS + [True]  # blob 4 stands at entry 5, behind the background
        assert record.changed_keys == ["features"]
        redness = (after.features - before.features)[0, 5]
        assert redness[0] * (-1 if record.from_class else 1) > 0  # less red, or more
        assert record.score_after == pytest.approx(decide(render(after)).sigmoid()[0, 1].item(), abs=1e-5)


def test_files_and_records_tell_the_same(tmp_path: Path) -> None:
    out = tmp_path / "out"
    records = tiny_explainer().explain(pictures(6), ["stop", "left"], out=out)
    names = ["explanations.parquet", "metadata_0.pt", "metadata_1.pt", "snapshot_0.png", "snapshot_1.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    rows = read_table(out)
    assert [(row["image"], row["attribute"], row["flipped"]) for row in rows] == [
        (record.image, record.attribute, record.flipped) for record in records
    ]
    metadata = [torch.load(out / f"metadata_{index}.pt", weights_only=True) for index in range(2)]
    assert metadata[0]["image_names"] + metadata[1]["image_names"] == [f"array_{index}" for index in range(6)]
    after = torch.cat([part["att_1"]["final_scores"][:, 1] for part in metadata]).tolist()
    assert after == pytest.approx([record.score_after for record in records[::2]])
    height, width = load_image(out / "snapshot_1.png").shape[:2]
    assert width > 4 * 256 and height > 2 * 128  # two pictures of the second batch, four columns


def test_named_blobs_leave_the_background_alone() -> None:
    record = tiny_explainer().explain(pictures(1)[0], ["stop"], blobs=[0])[0]
    assert torch.equal(record.blobs_before.features[:, 0], record.blobs_after.features[:, 0])
    record = tiny_explainer().explain(pictures(1)[0], ["stop"], blobs=[0], background=True)[0]
    assert not torch.equal(record.blobs_before.features[:, 0], record.blobs_after.features[:, 0])
    record = tiny_explainer().explain(pictures(1)[0], ["stop"])[0]
    assert not torch.equal(record.blobs_before.features[:, 0], record.blobs_after.features[:, 0])


def test_each_picture_may_have_its_own_blobs_across_batches() -> None:
    listed = [[4], [0], [4], [1], [4], [2]]  # batches hold four pictures
    records = tiny_explainer().explain(pictures(6), ["stop"], keys=["appearance"], blobs=listed)
    for record, allowed in zip(records, listed, strict=True):
        changed = (record.blobs_before.features != record.blobs_after.features).any(2)[0].nonzero()[:, 0] - 1
        assert set(changed.tolist()) <= set(allowed)
    with pytest.raises(BlobexError, match="2 of 6 pictures"):
        tiny_explainer().explain(pictures(6), ["stop"], blobs=[[0], [1]])


def test_pictures_of_any_kind(tmp_path: Path) -> None:
    big = Image.fromarray(pictures(1)[0]).resize((300, 200))
    big.save(tmp_path / "big.jpg")
    big.convert("L").save(tmp_path / "grey.png")
    big.convert("RGBA").save(tmp_path / "alpha.png")
    grey = np.full((50, 40), 128, np.uint8)
    tiny = tiny_explainer(tiny_params(steps=1))
    files = [tmp_path / "big.jpg", str(tmp_path / "grey.png"), tmp_path / "alpha.png", grey]
    records = tiny.explain(files, ["stop"])
    assert [record.image for record in records] == [*map(str, files[:3]), "array_3"]
    assert {record.query.shape for record in records} == {(HEIGHT, WIDTH, 3)}
    assert (records[3].query == 128).all()
    assert len(tiny.explain(np.stack(pictures(3)))) == 3
    assert len(tiny.explain([files[0], files[0]], ["stop", "left"])) == 4  # a picture twice is two rows
    assert tiny.explain(tmp_path / "big.jpg")[0].attribute == "stop"


def test_result_does_not_depend_on_the_batch() -> None:
    params = tiny_params()
    single = dataclasses.replace(
        params,
        explain=dataclasses.replace(params.explain, batch_size=1),
        invert=dataclasses.replace(params.invert, batch_size=1),
    )
    together, alone = tiny_explainer(params).explain(pictures(3)), tiny_explainer(single).explain(pictures(3))
    for first, second in zip(together, alone, strict=True):
        assert first.score_after == pytest.approx(second.score_after, abs=1e-3)
        assert first.step == second.step


def test_the_decision_sees_what_can_be_shown() -> None:
    seen: list[float] = []

    def recording(images: Tensor) -> Tensor:
        seen.append(images.abs().max().item())
        return decide(images)

    shown = explainer._on_shown(recording)
    assert torch.equal(shown(torch.full((1, 3, HEIGHT, WIDTH), 3.0)), decide(torch.ones(1, 3, HEIGHT, WIDTH)))
    assert seen == [1.0]


def test_options_override_parameters() -> None:
    record = tiny_explainer().explain(pictures(1)[0], steps=1, learning_rate=0.05, keys=["xs"])[0]
    assert record.step <= 1
    assert max(record.changes.values()) <= 0.0501
    with pytest.raises(BlobexError, match=r"explain\.rect\.steps is 0"):
        tiny_explainer().explain(pictures(1)[0], steps=0)
    with pytest.raises(BlobexError, match=r"explain\.rect\.learning_rate"):
        tiny_explainer().explain(pictures(1)[0], learning_rate=-1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attributes": ["reverse"]}, "unknown attribute 'reverse': choose from forward, stop, left, right"),
        ({"attributes": []}, "no attribute"),
        ({"keys": ["colour"]}, "unknown key 'colour'"),
        ({"blobs": [BLOBS]}, f"unknown blob {BLOBS}"),
        ({"images": []}, "no pictures"),
        ({"images": ["nowhere.png"]}, "nowhere.png"),
        ({"images": np.zeros((4, 4, 3))}, "must be uint8"),
        ({"images": np.zeros((4, 4, 2), np.uint8)}, "must be uint8"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(BlobexError, match=message):
        tiny_explainer().explain(**({"images": pictures(1), "out": tmp_path / "out"} | arguments))  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_snapshot_shows_failures_too() -> None:
    params = tiny_params(steps=2)
    broken = dataclasses.replace(tiny_explainer(params), decide=lambda images: decide(images) * float("nan"))
    records = broken.explain(pictures(2))
    assert [record.verdict for record in records] == ["failed"] * 2
    assert snapshot(records).shape[2] == 3


def test_attribute_names() -> None:
    assert attribute_indices(["right", "forward", "right"]) == [3, 0]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Random networks for 32x64 pictures, and the parameter file that goes with them."""
    torch.manual_seed(0)
    models = tmp_path / "models"
    blobgan = BlobGAN(NETWORK, HEIGHT, 2)
    weights.save(models / "blobgan/rect", "blobgan", blobgan.config(), blobgan)
    for kind in ("encoder", "encoder_pretrain"):
        encoder = small_encoder(w_size=16)
        weights.save(models / kind / "rect", kind, encoder.config, encoder)
    parser = Parser([8, 8], HEIGHT, WIDTH)
    weights.save(models / "parser/rect", "parser", parser.config, parser)
    for kind in ("plain", "biased"):
        decision = DecisionModel("densenet_small", HEIGHT, WIDTH)
        weights.save(models / "decision/rect" / kind, "decision", decision.config, decision)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(config.to_dict(tiny_params(steps=1))))
    return tmp_path


def small_encoder(w_size: int) -> Encoder:
    return Encoder("stylegan", {4: 8, 8: 8, 16: 8, 32: 8}, HEIGHT, 2, w_size, mlp_idx=-1)


def load(saved: Path, setup: str = "rect", **options: object) -> Explainer:
    return Explainer.load(setup, saved / "models", saved / "params.yaml", device="cpu", **options)  # type: ignore[arg-type]


def test_loaded_networks_are_those_that_were_saved(saved: Path) -> None:
    folder = saved / "models"
    for options, encoder, decision in (
        ({}, "encoder", "plain"),
        ({"decision": "biased"}, "encoder", "biased"),
        ({"pretrained_encoder": True}, "encoder_pretrain", "plain"),
    ):
        loaded = load(saved, **options)
        images = torch.linspace(-1, 1, 2 * 3 * HEIGHT * WIDTH).view(2, 3, HEIGHT, WIDTH)
        w = load_encoder(folder / encoder / "rect", encoder)(images)
        layout = load_blobgan(folder / "blobgan/rect").layout_from_w(w)
        assert torch.equal(loaded.encode(images).xs, layout.xs)
        logits = load_decision(folder / "decision/rect" / decision)(images)
        assert torch.equal(loaded.decide(images), logits)
        assert torch.equal(loaded.render(layout), loaded.render(layout))


def test_photo_to_explanation_through_real_networks(saved: Path) -> None:
    record = load(saved).explain(np.full((50, 70, 3), 99, np.uint8), ["left"])[0]
    assert not record.failed
    assert record.counterfactual.shape == (HEIGHT, WIDTH, 3)
    assert np.isfinite([record.perceptual, record.proximity, record.score_after]).all()


def test_features_of_a_decision_are_used_where_there_are_some(saved: Path) -> None:
    class Decision(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

        def features(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    images = torch.zeros(2, 3, HEIGHT, WIDTH)
    assert load(saved, decision=Decision()).decide_features(images).shape == (2, 3 * HEIGHT * WIDTH)
    assert load(saved, decision=lambda x: x.mean((2, 3))).decide_features(images).shape == (2, 3)


@pytest.mark.parametrize("kind", ["blobgan", "encoder", "parser", "decision"])
def test_networks_of_another_setup_are_refused(saved: Path, kind: str) -> None:
    folder = saved / "models" / kind / "rect" / ("plain" if kind == "decision" else "")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("height: 32", "height: 64").replace("width: 64", "width: 128"))
    with pytest.raises(BlobexError, match=f"the {kind} in .* is for 64x128 pictures but rect has 32x64"):
        load(saved)


def test_missing_networks_are_told(saved: Path) -> None:
    (saved / "models/blobgan/rect").rename(saved / "models/blobgan/square")
    with pytest.raises(BlobexError, match="no blobgan weights"):
        load(saved)
    with pytest.raises(BlobexError, match=r"blobgan in .* is for 32x64 pictures but square has 64x64"):
        load(saved, "square")


def test_encoder_of_another_blobgan_is_refused(saved: Path) -> None:
    encoder = small_encoder(w_size=12)
    weights.save(saved / "models/encoder/rect", "encoder", encoder.config, encoder)
    with pytest.raises(BlobexError, match="another BlobGAN"):
        load(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setup": "round"}, "unknown setup 'round'"),
        ({"decision": "best"}, "unknown decision model 'best'"),
    ],
)
def test_wrong_choices_are_refused(saved: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(BlobexError, match=message):
        load(saved, **options)


def test_unknown_devices_are_refused(saved: Path) -> None:
    with pytest.raises(BlobexError, match="unknown device 'tpu'"):
        Explainer.load("rect", saved / "models", saved / "params.yaml", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(BlobexError, match="no CUDA device"):
            Explainer.load("rect", saved / "models", saved / "params.yaml", device="cuda")
