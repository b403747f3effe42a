"""The explainer in the tiny world, whose causes are known, and the loading of networks."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from worlds.tiny_models import HEIGHT, WIDTH, save_models, small_encoder
from worlds.tiny_world import (
    BLOBS,
    OUTPUTS,
    decide,
    painted_networks,
    render,
    road_images,
    tiny_explainer,
    tiny_params,
)

from blobex.core.errors import BlobexError
from blobex.datasets.images import load_image, to_float, to_tensor
from blobex.decisions.source import from_callable
from blobex.explain.explainer import Explainer
from blobex.explain.overviews import read_table, snapshot
from blobex.explain.request import Output, Request
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import load_decision
from blobex.networks.encoder import load_encoder


def test_the_light_is_the_cause(tmp_path: Path) -> None:
    records = tiny_explainer().explain(
        road_images(6), Request(["stop"], keys=["appearance"], blobs=[4]), out=tmp_path / "out"
    )
    assert [record.verdict for record in records] == ["flipped"] * 6
    assert [record.from_class for record in records] == ["stop", "not stop"] * 3  # red, green, red, ...
    assert [record.to_class for record in records] == ["not stop", "stop"] * 3
    for record in records:
        before, after = record.blobs_before, record.blobs_after
        changed = (before.features != after.features).any(2)[0]
        assert changed.tolist() == [False] * BLOBS + [True]  # blob 4 stands at entry 5, behind the background
        assert record.changed_keys == ["features"]
        redness = (after.features - before.features)[0, 5]
        assert redness[0] * (-1 if record.from_class == "stop" else 1) > 0  # less red, or more
        assert record.score_full == pytest.approx(decide(render(after)).sigmoid()[0, 1].item(), abs=1e-5)


def test_files_agree_with_records(tmp_path: Path) -> None:
    out, shown = tmp_path / "out", road_images(8) * 2 + road_images(2)
    records = tiny_explainer(tiny_params(steps=5)).explain(
        shown, Request(["stop", "left"]), out=Output(out, published=True)
    )
    names = ["explanations.parquet", "metadata_0.pt", "metadata_1.pt", "pictures", "settings.json"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "snapshot_0.png", "snapshot_1.png"]
    assert len(list((out / "pictures").iterdir())) == len(shown)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    rows = read_table(out)
    assert [(row["image"], row["attribute"], row["flipped"]) for row in rows] == [
        (record.image, record.attribute, record.flipped) for record in records
    ]
    assert [(row["from_class"], row["to_class"]) for row in rows] == [
        (record.from_class, record.to_class) for record in records
    ]
    metadata = [torch.load(out / f"metadata_{index}.pt", weights_only=True) for index in range(2)]
    assert metadata[0]["image_names"] + metadata[1]["image_names"] == [f"array_{index}" for index in range(18)]
    after = torch.cat([part["att_1"]["final_scores"][:, 1] for part in metadata]).tolist()
    assert after == pytest.approx([record.score_after for record in records[::2]])
    height, width = load_image(out / "snapshot_1.png").shape[:2]
    assert width > 4 * 256 and height > 2 * 128  # two pictures after the first sixteen, four columns


def test_published_files_mark_changed_blobs(tmp_path: Path) -> None:
    records = tiny_explainer().explain(
        road_images(3), Request(["stop", "left"], count=2), out=Output(tmp_path / "out", published=True)
    )
    content = torch.load(tmp_path / "out" / "metadata_0.pt", weights_only=True)
    for column, name in ((1, "stop"), (2, "left")):
        found, mine = content[f"att_{column}"]["Assignment"], [each for each in records if each.attribute == name]
        assert found.shape == (3, 2, BLOBS + 1) and content[f"att_{column}"]["final_scores"].shape == (6, 4)
        for row, record in zip(found.flatten(0, 1), mine, strict=True):
            before, after = record.blobs_before, record.blobs_after
            for blob in range(1, BLOBS + 1):
                keys = {"xs": blob - 1, "ys": blob - 1, "covs": blob - 1, "sizes": blob, "features": blob}
                pairs = [(getattr(before, key)[0, at], getattr(after, key)[0, at]) for key, at in keys.items()]
                assert row[blob] == float(any((old != new).any() for old, new in pairs))
        assert 0 < found.mean() < 1


def test_the_background_stays_if_blobs_are_given() -> None:
    record = tiny_explainer().explain(road_images(1)[0], Request(["stop"], blobs=[0]))[0]
    assert torch.equal(record.blobs_before.features[:, 0], record.blobs_after.features[:, 0])
    record = tiny_explainer().explain(road_images(1)[0], Request(["stop"], blobs=[0], background=True, few=False))[0]
    assert not torch.equal(record.blobs_before.features[:, 0], record.blobs_after.features[:, 0])
    record = tiny_explainer().explain(road_images(1)[0], Request(["stop"], few=False))[0]
    assert not torch.equal(record.blobs_before.features[:, 0], record.blobs_after.features[:, 0])


def test_each_image_may_have_its_own_blobs() -> None:
    listed = [[4], [0], [4], [1], [4], [2]]  # four pictures are worked on at once
    records = tiny_explainer().explain(road_images(6), Request(["stop"], keys=["appearance"], blobs=listed))
    for record, allowed in zip(records, listed, strict=True):
        changed = (record.blobs_before.features != record.blobs_after.features).any(2)[0].nonzero()[:, 0] - 1
        assert set(changed.tolist()) <= set(allowed)
    both = tiny_explainer().explain(
        road_images(2), Request(["stop"], keys=["appearance"], blobs=[[4]])
    )  # one list for all
    assert [record.score_after for record in both[:1]] == [records[0].score_after] and len(both) == 2
    with pytest.raises(BlobexError, match="2 of 6 images"):
        tiny_explainer().explain(road_images(6), Request(["stop"], blobs=[[0], [1]]))


def test_images_of_any_kind(tmp_path: Path) -> None:
    big = Image.fromarray(road_images(1)[0]).resize((300, 200))
    big.save(tmp_path / "big.jpg")
    big.convert("L").save(tmp_path / "grey.png")
    big.convert("RGBA").save(tmp_path / "alpha.png")
    grey = np.full((50, 40), 128, np.uint8)
    tiny = tiny_explainer(tiny_params(steps=1))
    files = [tmp_path / "big.jpg", str(tmp_path / "grey.png"), tmp_path / "alpha.png", grey]
    records = tiny.explain(files, Request(["stop"]))
    assert [record.image for record in records] == [*map(str, files[:3]), "array_3"]
    assert {record.query.shape for record in records} == {(HEIGHT, WIDTH, 3)}
    assert (records[3].query == 128).all()
    assert len(tiny.explain(np.stack(road_images(3)))) == 3 * 4  # all four outputs
    assert len(tiny.explain([files[0], files[0]], Request(["stop", "left"]))) == 4  # a picture twice is two rows
    assert [record.attribute for record in tiny.explain(tmp_path / "big.jpg")] == ["forward", "stop", "left", "right"]


def test_results_do_not_depend_on_the_batch_size() -> None:
    """On a CPU they are the same to the bit, for which float32 networks have at most eight images at once."""
    params = tiny_params()

    def with_batch(images: int) -> Explainer:
        search = dataclasses.replace(params.search, max_batch_pixels=images * HEIGHT * WIDTH)
        return tiny_explainer(dataclasses.replace(params, search=search))

    assert [with_batch(images).batch_size for images in (1, 4, 40)] == [1, 4, 8]
    wide = with_batch(40)
    assert dataclasses.replace(wide, quick=dataclasses.replace(wide.quick)).batch_size == 40  # other, quicker networks
    few, many = (each.explain(road_images(6), Request(["stop"])) for each in (with_batch(4), wide))
    for first, second in zip(few, many, strict=True):
        assert first.step == second.step and first.score_after == second.score_after
        assert np.array_equal(first.counterfactual, second.counterfactual)


def test_options_override_parameters() -> None:
    record = tiny_explainer().explain(road_images(1)[0], Request(["stop"], steps=1, learning_rate=0.05, keys=["xs"]))[0]
    assert record.step <= 1
    assert max(record.changes.values()) <= 0.0501
    with pytest.raises(BlobexError, match=r"explain\.rect\.steps is 0"):
        tiny_explainer().explain(road_images(1)[0], Request(steps=0))
    with pytest.raises(BlobexError, match=r"explain\.rect\.learning_rate"):
        tiny_explainer().explain(road_images(1)[0], Request(learning_rate=-1.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attributes": ["reverse"]}, "painted has no output 'reverse': choose from forward, stop, left, right"),
        ({"attributes": []}, "no output to change: name one of forward, stop, left, right"),
        ({"region": (0, 0, 1, 1)}, "a region is for segmentation models, and this one gives attributes"),
        ({"replaced": "road"}, "only a segmentation model replaces a class"),
        ({"keys": ["colour"]}, "unknown key 'colour'"),
        ({"blobs": [BLOBS]}, f"unknown blob {BLOBS}"),
        ({"images": []}, "no images"),
        ({"images": ["nowhere.png"]}, "nowhere.png"),
        ({"images": np.zeros((4, 4, 3))}, "must be uint8"),
        ({"images": np.zeros((4, 4, 2), np.uint8)}, "must be uint8"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    options = {name: value for name, value in arguments.items() if name != "images"}
    images = arguments.get("images", road_images(1))
    with pytest.raises(BlobexError, match=message):
        tiny_explainer().explain(images, Request(**options), tmp_path / "out")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_snapshot_shows_failures_too() -> None:
    broken = from_callable(lambda images: decide(images) * float("nan"), "attributes", OUTPUTS)
    records = tiny_explainer(tiny_params(steps=2), broken).explain(road_images(2), Request(["stop"]))
    assert [record.verdict for record in records] == ["failed"] * 2
    assert snapshot(records, 1).shape[2] == 3


def test_attribute_names() -> None:
    tiny = tiny_explainer()
    assert tiny.plan(Request(["right", "forward", "right"])).columns == (3, 0)
    assert tiny.plan(Request(["1", "stop"])).columns == (1,)
    assert tiny.plan(Request()).columns == (0, 1, 2, 3)
    other = from_callable(decide, "attributes", ["a", "b", "c", "d"])
    assert tiny_explainer(decision=other).plan(Request()).columns == (0, 1, 2, 3)
    classes = from_callable(decide, "classes", ["a", "b", "c", "d"])
    assert tiny_explainer(decision=classes).plan(Request()).columns == ()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Random networks for 32x64 pictures, and the parameter file that goes with them."""
    return save_models(tmp_path)


def load(saved: Path, setup: str = "rect", **options: object) -> Explainer:
    return Explainer.load(setup, saved / "models", saved / "params.yaml", device="cpu", **options)  # type: ignore[arg-type]


def test_loaded_networks_are_those_that_were_saved(saved: Path) -> None:
    folder = saved / "models"
    for options, encoder, decision in (
        ({}, "encoder", "plain"),
        ({"decision": "biased"}, "encoder", "biased"),
    ):
        loaded = load(saved, **options)
        images = torch.linspace(-1, 1, 2 * 3 * HEIGHT * WIDTH).view(2, 3, HEIGHT, WIDTH)
        images = images.contiguous(memory_format=torch.channels_last)  # as the explainer's pictures lie in memory
        network = load_encoder(folder / encoder / "rect", encoder).to(memory_format=torch.channels_last)
        layout = load_blobgan(folder / "blobgan/rect").layout_from_w(network(images))
        assert torch.equal(loaded.exact.encode(images).xs, layout.xs)
        model = load_decision(folder / "decision/rect" / decision).to(memory_format=torch.channels_last)
        assert torch.equal(loaded.exact.decide(images), model(images))
        assert torch.equal(loaded.exact.render(layout), loaded.exact.render(layout))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["fast", "published"])
def test_photo_to_explanation_through_real_networks(
    tmp_path: Path, precision: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blobex.inversion.published.STEPS", 3)
    monkeypatch.setattr("blobex.counterfactual.published.STEPS", 3)
    saved = save_models(tmp_path, precision=precision)
    path = saved / "params.yaml"
    path.write_text(path.read_text().replace("mode: fast", f"mode: {mode}"))
    record = load(saved).explain(np.full((50, 70, 3), 99, np.uint8), Request(["left"]))[0]
    assert not record.failed
    assert record.counterfactual.shape == (HEIGHT, WIDTH, 3)
    assert np.isfinite([record.perceptual, record.proximity, record.score_after]).all()
    assert (record.step == 3) == (mode == "published")


def test_features_of_a_decision_are_used_where_there_are_some(saved: Path) -> None:
    class Decision(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

        def features(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    images = torch.zeros(2, 3, HEIGHT, WIDTH)
    assert load(saved, decision=Decision()).exact.features(images).shape == (2, 3 * HEIGHT * WIDTH)
    assert load(saved, decision=lambda x: x.mean((2, 3))).exact.features(images).shape == (2, 3)


@pytest.mark.parametrize("kind", ["blobgan", "encoder", "parser", "decision"])
def test_networks_of_another_setup_are_refused(saved: Path, kind: str) -> None:
    folder = saved / "models" / kind / "rect" / ("plain" if kind == "decision" else "")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("height: 32", "height: 64").replace("width: 64", "width: 128"))
    with pytest.raises(BlobexError, match=f"the {kind} in .* is for 64x128 images but rect has 32x64"):
        load(saved)


def test_missing_networks_are_reported(saved: Path) -> None:
    (saved / "models/blobgan/rect").rename(saved / "models/blobgan/square")
    with pytest.raises(BlobexError, match="no blobgan weights"):
        load(saved)
    with pytest.raises(BlobexError, match=r"blobgan in .* is for 32x64 images but square has 64x64"):
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
        ({"decision": "best"}, "best is no decision model"),
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


CLASSES = """
import torch
from torch import nn


class Lights(nn.Module):  # red, green or none, by the colour of the light; left in training mode
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, pictures):
        light = pictures[:, :, 2:12, 26:38].mean((2, 3))
        redness = self.scale * (light[:, 0] - light[:, 1])
        return torch.stack([redness, -redness, torch.zeros_like(redness) - 20], dim=1)


def road(pictures):  # a map of dark, red and green, at half the size
    half = nn.functional.avg_pool2d(pictures, 2)
    return {"out": 10 * torch.stack([-half.amax(1) - 0.3, half[:, 0] - half[:, 1], half[:, 1] - half[:, 0]], dim=1)}


def speed(pictures):  # in km/h: slower the redder the light; and a steering angle
    light = pictures[:, :, 2:12, 26:38].mean((2, 3))
    return torch.stack([50 - 40 * (light[:, 0] - light[:, 1]), light[:, 2]], dim=1)


lights = Lights()
"""


@pytest.fixture
def theirs(saved: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> tuple[Path, str]:
    """The saved networks, and a Python module beside them in which somebody has two models."""
    name = f"somebodys_{abs(hash(request.node.nodeid))}"  # a module is imported once
    (saved / f"{name}.py").write_text(CLASSES)
    monkeypatch.chdir(saved)
    return saved, name


def painted(explainer: Explainer) -> Explainer:
    """The explainer with the painted world as its generator, and its own decision."""
    networks = painted_networks(explainer.decision)
    return dataclasses.replace(explainer, params=tiny_params(steps=60), exact=networks, quick=networks, blobs=BLOBS)


def test_classes_are_explained(theirs: tuple[Path, str]) -> None:
    saved, module = theirs
    (saved / "lights.yaml").write_text(f"model: {module}:lights\nkind: classes\noutputs: [red, green, none]\n")
    explainer = load(saved, decision=str(saved / "lights.yaml"))
    model = explainer.decision.modules[0]
    before = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    assert (explainer.decision.kind, explainer.decision.outputs) == ("classes", ("red", "green", "none"))
    records = painted(explainer).explain(road_images(4), Request(keys=["appearance"], blobs=[4]))
    assert [record.from_class for record in records] == ["red", "green"] * 2
    assert [record.to_class for record in records] == ["green", "red"] * 2  # the runner-up
    assert [record.verdict for record in records] == ["flipped"] * 4
    for record in records:
        assert record.score_before < 0.5 < record.score_after
        assert record.scores_after.argmax() == ["red", "green", "none"].index(record.to_class)
    named = painted(explainer).explain(road_images(2), Request(["none", "green"], steps=2))
    assert [record.attribute for record in named] == ["none", "green"] * 2
    assert named[3].verdict == "already so" and named[3].from_class == named[3].to_class == "green"
    painted(explainer).explain(road_images(3), Request(steps=1), saved / "out")  # runners-up share no column
    assert (saved / "out" / "snapshot_0.png").is_file()
    explainer.explain(road_images(1), Request(["none"]))  # and through the saved networks
    assert before == {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    assert model.training and model.scale.requires_grad and model.scale.grad is None


def test_segmentations_are_explained(theirs: tuple[Path, str]) -> None:
    saved, module = theirs
    explainer = painted(load(saved, decision=f"{module}:road"))
    assert (explainer.decision.kind, explainer.decision.outputs) == ("segmentation", ("0", "1", "2"))
    light = (0.42, 0.08, 0.58, 0.36)
    red = road_images(4)[::2]
    records = explainer.explain(
        red, Request(["2"], keys=["appearance"], blobs=[4], region=light, replaced="1", compose="full")
    )
    assert [record.from_class for record in records] == ["1"] * 2 and [record.to_class for record in records] == [
        "2"
    ] * 2
    for record in records:
        assert record.verdict == "flipped"
        assert record.score_before == 0 and record.score_after > 0.5  # shares of the region
        assert record.scores_after.sum() == pytest.approx(1, abs=1e-5)
        left = np.abs(record.counterfactual[:, :16].astype(int) - record.reconstruction[:, :16]).max()
        assert left <= 2  # what is far from the light stays
    with pytest.raises(BlobexError, match="image 1 has no 1 in the region"):
        explainer.explain(road_images(2), Request(["2"], region=light, replaced="1"))
    with pytest.raises(BlobexError, match="no output to change: name one of 0, 1, 2"):
        explainer.explain(road_images(2))


@pytest.mark.parametrize("options", [{"at_least": 40}, {"at_most": 20.5}, {"between": (44, 46)}])
def test_numbers_are_explained(theirs: tuple[Path, str], options: dict[str, Any]) -> None:
    saved, module = theirs
    (saved / "speed.yaml").write_text(f"model: {module}:speed\nkind: regression\noutputs: [speed, steering]\n")
    explainer = painted(load(saved, decision=str(saved / "speed.yaml")))
    assert explainer.decision.kind == "regression"
    records = explainer.explain(
        road_images(4), Request(["speed"], keys=["appearance"], blobs=[4], **options), saved / "out"
    )
    low, high = options.get("between", (options.get("at_least", -math.inf), options.get("at_most", math.inf)))
    assert "flipped" in [record.verdict for record in records]
    for record in records:
        queries = to_float(torch.stack([to_tensor(image) for image in (record.query, record.counterfactual)]))
        before, after = explainer.decision.logits(queries)[:, 0].tolist()
        assert record.score_before == pytest.approx(before, abs=1e-3)
        assert record.score_after == pytest.approx(after, abs=0.5)  # of the image before it was rounded
        already = low <= before <= high
        assert record.verdict == ("already so" if already else "flipped")
        assert already or low <= record.score_after <= high
        assert record.to_class.startswith(("speed >= 40", "speed <= 20.5", "speed from 44 to 46"))
        assert record.from_class == (record.to_class if already else f"speed {before:.3g}")
    assert records == explainer.explain(
        road_images(4), Request(["speed"], keys=["appearance"], blobs=[4], **options), saved / "out"
    )
    with pytest.raises(BlobexError, match="holds results of other settings"):
        explainer.explain(road_images(4), Request(["speed"], keys=["appearance"], blobs=[4], at_least=1), saved / "out")


def test_numbers_need_a_range_and_a_name(theirs: tuple[Path, str]) -> None:
    saved, module = theirs
    (saved / "speed.yaml").write_text(f"model: {module}:speed\nkind: regression\noutputs: [speed, steering]\n")
    explainer = load(saved, decision=str(saved / "speed.yaml"))
    for request, words in [
        (Request(["speed"]), "say which to reach with at_least, at_most or between"),
        (Request(at_least=3), "no output to change: name one of speed, steering"),
        (Request(["speed"], at_least=3, at_most=4), "both at_least and at_most"),
    ]:
        with pytest.raises(BlobexError, match=words):
            explainer.plan(request)
    with pytest.raises(BlobexError, match="only a regression reaches a range"):
        load(saved).plan(Request(["stop"], at_least=0.5))
