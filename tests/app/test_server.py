"""The local page's server: results agree with the explainer, and invalid requests are refused."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json
import socket
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from typer.testing import CliRunner
from worlds.tiny_models import HEIGHT, NETWORK, WIDTH, save_models, smooth_images

from blobex.app import server
from blobex.app.guard import refusal
from blobex.app.jobs import Progress, events
from blobex.app.responses import model, request
from blobex.app.studio import Studio, outlines, probabilities
from blobex.app.wire import WireLayout, WireQuestion, from_layout, short_name, to_layout
from blobex.cli import main as cli
from blobex.config.read import load_params, parse
from blobex.core.errors import BlobexError
from blobex.counterfactual.compose import LARGEST_ERROR, continued, coverage
from blobex.counterfactual.ranges import Range
from blobex.datasets.images import to_array, to_float, to_tensor
from blobex.explain.blob_listing import blob_names
from blobex.explain.explainer import Explainer
from blobex.explain.feedback import images_of, read_feedback
from blobex.explain.request import Output, Request
from blobex.explain.results_folder import read_results
from blobex.layout.blobs import BlobLayout
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import load_decision

ADDRESS = "http://127.0.0.1:7860"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_models(tmp_path_factory.mktemp("app"), steps=2)


@pytest.fixture(scope="module")
def studio(folder: Path) -> Studio:
    return Studio.open("rect", folder / "models", load_params(folder / "params.yaml"), "cpu", None)


@pytest.fixture(scope="module")
def client(studio: Studio) -> TestClient:
    return TestClient(server.application(studio), base_url=ADDRESS)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return to_array(smooth_images(1)[0])


@pytest.fixture(scope="module")
def scene(client: TestClient, photo: np.ndarray) -> Json:
    """The photo as the page gets it."""
    response = client.post("/api/photo?name=my/photo.png&decision=plain", content=png(photo))
    *progress, last = map(json.loads, response.text.splitlines())
    assert response.status_code == 200 and all(set(event) == {"step", "of", "picture"} for event in progress)
    found: Json = last["result"]["scene"]
    return found | {"decision": "plain"}


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def seen(text: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))


def blobs_of(layout: Json) -> BlobLayout:
    wire = parse(WireLayout, layout, "layout")
    return to_layout(wire, NETWORK.blobs, NETWORK.feature_dim, NETWORK.style_dim)


def edited(scene: Json, number: int, **changes: object) -> Json:
    blobs = [blob | changes if k == number else blob for k, blob in enumerate(scene["layout"]["blobs"])]
    return scene | {"layout": scene["layout"] | {"blobs": blobs}}


def answer(client: TestClient, scene: Json, **question: object) -> Json:
    response = client.post("/api/explain", json={"scene": scene, "question": question})
    assert response.status_code == 200, response.text
    found: Json = json.loads(response.text.splitlines()[-1])
    return found.get("result", found)


def test_layouts_survive_json_bit_for_bit(folder: Path) -> None:
    blobgan = load_blobgan(folder / "models/blobgan/rect")
    with torch.no_grad():
        layout = blobgan.sample(torch.randn(1, blobgan.z_dim))
    back = blobs_of(json.loads(json.dumps(from_layout(layout))))
    for key, tensor in layout.items():
        first = 1 if key == "sizes" else 0  # entry 0 is never read
        assert torch.equal(tensor[:, first:], getattr(back, key)[:, first:]), key


def test_a_sample_is_what_the_generator_renders(client: TestClient, folder: Path) -> None:
    found = client.post("/api/sample", json={"seed": 5, "truncation": 0.25}).json()
    blobgan = load_blobgan(folder / "models/blobgan/rect")
    with torch.no_grad():
        z = torch.randn(1, blobgan.z_dim, generator=torch.Generator().manual_seed(5))
        image = blobgan.render(blobgan.sample(z, 0.25))[0]
        said = load_decision(folder / "models/decision/rect/plain")(image[None].clamp(-1, 1)).sigmoid()
    assert np.abs(seen(found["drawing"]["picture"]).astype(int) - to_array(image)).max() <= 1
    np.testing.assert_allclose(found["drawing"]["said"], said[0], atol=1e-4)
    again = client.post("/api/draw", json=found["scene"] | {"decision": "plain"}).json()
    assert again["picture"] == found["drawing"]["picture"]
    assert found["scene"]["photo"] is None and sum(again["areas"]) == pytest.approx(1, abs=1e-5)


def test_an_edit_is_pasted_into_the_photo(client: TestClient, scene: Json, photo: np.ndarray, folder: Path) -> None:
    plain = client.post("/api/draw", json=scene).json()
    assert np.array_equal(seen(plain["picture"]), photo)
    moved = edited(scene, 1, x=0.9, size=9.0)
    drawn = client.post("/api/draw", json=moved).json()
    blobgan = load_blobgan(folder / "models/blobgan/rect")
    start, layout = blobs_of(scene["layout"]), blobs_of(moved["layout"])
    with torch.no_grad():
        change = blobgan.render(layout) - blobgan.render(start)
        only = torch.tensor([[False, False, True, False]])
        before, after = blobgan.scores(start), blobgan.scores(layout)
        gone = (before - after).clamp(min=0).sum(1, keepdim=True)  # all look as before, where they still are
        query, mask = to_float(to_tensor(photo)), coverage(before, after, only)
        error = continued((query - blobgan.render(layout)).clamp(-LARGEST_ERROR, LARGEST_ERROR), 1 - mask)
        wrong = query - blobgan.render(start) - error
        expected = (query + mask * (change - gone * wrong)).clamp(-1, 1)[0]
    assert np.abs(seen(drawn["picture"]).astype(int) - to_array(expected)).max() <= 1
    assert not np.array_equal(seen(drawn["picture"]), photo)
    owners = np.frombuffer(base64.b64decode(drawn["owners"]), "<i2").reshape(drawn["rows"], drawn["columns"])
    assert np.array_equal(owners, blobgan.scores(layout)[0].argmax(0) - 1)
    hidden = client.post("/api/draw", json=edited(scene, 1, size=-6.0)).json()
    assert hidden["areas"][2] < drawn["areas"][2] and hidden["outlines"][1][2:4] == [0, 0]


def test_outlines_mark_half_opacity() -> None:
    random = np.random.default_rng(0)
    covs = random.normal(size=4)
    layout = BlobLayout(
        *(torch.tensor(each, dtype=torch.float32) for each in ([[0.3]], [[0.6]], [[covs.tolist()]], [[0, 5.0]])),
        torch.ones(1, 2, 1),
        torch.ones(1, 2, 1),
    )
    ((x, y, along, across, angle),) = outlines(layout, area=0.02)
    aspects = 1 / (1 + np.exp(-covs[:2]))
    scaled = aspects * 0.02 / np.sqrt(aspects.prod()) + 1e-5
    u = covs[2:] / np.linalg.norm(covs[2:])
    v = np.array([-u[1], u[0]])
    inverse = np.linalg.inv(scaled[0] * np.outer(u, u) + scaled[1] * np.outer(v, v))
    for turn in np.linspace(0, 6, 7):
        direction = np.array([np.cos(angle), np.sin(angle)])
        point = along * np.cos(turn) * direction + across * np.sin(turn) * np.array([-direction[1], direction[0]])
        assert point @ inverse @ point == pytest.approx(5.0, rel=1e-3)
    assert (x, y) == pytest.approx((0.3, 0.6))


def test_explanations_agree_with_the_explainer(
    client: TestClient, scene: Json, photo: np.ndarray, folder: Path, tmp_path: Path
) -> None:
    explainer = Explainer.load("rect", folder / "models", folder / "params.yaml", "cpu")
    (expected,) = explainer.explain(photo, Request(["stop"], blobs=[0, 2]), Output(tmp_path / "theirs", gif=True))
    found = answer(client, scene, attribute="stop", blobs=[0, 2])
    (one,) = found["explanations"]
    assert (one["from"], one["to"], one["verdict"]) == (expected.from_class, expected.to_class, expected.verdict)
    assert one["score_before"] == pytest.approx(expected.score_before, abs=1e-5)
    assert one["score_after"] == pytest.approx(expected.score_after, abs=1e-5)
    assert "; ".join(each["words"] for each in one["changes"]) == expected.words or not expected.blobs
    assert np.array_equal(seen(one["before"]), photo) and np.array_equal(seen(one["after"]), expected.counterfactual)
    assert torch.equal(blobs_of(one["layout"]).xs, expected.blobs_after.xs)
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(found["zip"]))) as archive:
        archive.extractall(tmp_path / "ours")

    def names(path: Path) -> list[str]:
        written = {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()}
        return sorted(name.replace("0000_array_0", "0000_photo") for name in written)

    assert names(tmp_path / "ours") == names(tmp_path / "theirs")
    assert (tmp_path / "ours/settings.json").read_text() == (tmp_path / "theirs/settings.json").read_text()
    (read_,) = read_results(tmp_path / "ours")
    assert read_.score_after == one["score_after"] and read_.image == "photo.png"


def test_a_photo_of_no_road_scene_is_in_doubt(client: TestClient, scene: Json, studio: Studio, monkeypatch) -> None:
    monkeypatch.setitem(
        studio.explainers, "plain", dataclasses.replace(studio.explainer("plain"), foreign=lambda images: [True])
    )
    (one,) = answer(client, scene, attribute="stop", blobs=[0, 2])["explanations"]
    assert one["verdict"].endswith(", in doubt") and not one["flipped"]
    assert one["sentence"].startswith("not to be trusted, as the image shows no road scene of the kind")


def test_answers_about_explanations_are_kept(studio: Studio, photo: np.ndarray, tmp_path: Path) -> None:
    kept = tmp_path / "feedback.json"
    page = TestClient(server.application(studio, feedback=kept), base_url=ADDRESS)
    encoded = base64.b64encode(png(photo)).decode()
    said = {"png": encoded, "image": "../my/photo.png", "output": "left", "decided": True, "answer": "true"}
    assert page.post("/api/feedback", json=said).json() == {"file": str(kept), "answers": 1}
    assert page.post("/api/feedback", json={**said, "answer": "false"}).json()["answers"] == 1
    (answer,) = read_feedback([kept])
    assert (answer.image, answer.output, answer.label) == ("photo.png", "left", False)
    assert (images_of([answer], {})[answer.digest] == photo).all()
    for wrong in ({"answer": "perhaps"}, {"png": "AAAA"}, {"png": base64.b64encode(png(photo[:8])).decode()}):
        assert page.post("/api/feedback", json={**said, **wrong}).status_code == 422
    assert read_feedback([kept]) == [answer]


def test_an_edited_scene_is_explained_as_drawn(client: TestClient, scene: Json) -> None:
    moved = edited(scene, 1, x=0.8, size=8.0)
    drawn = client.post("/api/draw", json=moved).json()
    (one,) = answer(client, moved, attribute="left", blobs=[1], keys=["position"])["explanations"]
    assert one["before"] == drawn["picture"]
    before, after = blobs_of(moved["layout"]), blobs_of(one["layout"])
    assert torch.equal(before.features, after.features) and torch.equal(before.xs[:, [0, 2]], after.xs[:, [0, 2]])
    several = answer(client, moved, attribute="left", count=2, region=[0.0, 0.0, 1.0, 1.0])["explanations"]
    assert [each["number"] for each in several] == [0, 1]


def test_decision_models_are_chosen_by_name(client: TestClient) -> None:
    model = client.get("/api/model").json()
    assert model["decisions"] == ["plain", "biased"] and model["outputs"] == ["forward", "stop", "left", "right"]
    assert (model["height"], model["width"], model["names"]) == (HEIGHT, WIDTH, ["blob 0", "blob 1", "blob 2"])
    both = [client.post("/api/sample", json={"seed": 1, "decision": name}).json() for name in ("plain", "biased")]
    assert both[0]["drawing"]["picture"] == both[1]["drawing"]["picture"]
    assert both[0]["drawing"]["said"] != both[1]["drawing"]["said"]
    refusal = client.get("/api/model?decision=os:system")
    assert refusal.status_code == 422 and "choose from plain, biased" in refusal.json()["error"]


WRONG: dict[str, tuple[Json, str]] = {
    "unknown blob": ({"blobs": [7]}, "unknown blob 7"),
    "no blobs": ({"blobs": []}, "nothing may change: allow a blob"),
    "unknown output": ({"attribute": "fly"}, "no output 'fly'"),
    "unknown key": ({"keys": ["colour"]}, "unknown key 'colour'"),
    "unknown field": ({"atribute": "stop"}, "unknown key question.atribute"),
    "no steps": ({"steps": 0}, "question.steps is 0"),
    "text for a number": ({"lambda_prox": "much"}, "it must be a number"),
    "half a region": ({"region": [0.1, 0.2]}, "a region is left, top, right, bottom"),
    "an empty region": ({"region": [0.5, 0.5, 0.5, 0.5]}, "holds no pixel"),
    "a region outside": ({"region": [0, 0, 1, 1.5]}, "from 0 to 1"),
    "a file as region": ({"thing": "/etc/passwd"}, "named by letters"),
    "two places": ({"thing": "car", "region": [0, 0, 1, 1]}, "give one of them"),
    "blobs and a place": ({"blobs": [0], "region": [0, 0, 1, 1]}, "give one of them"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_questions_are_refused(client: TestClient, scene: Json, name: str) -> None:
    question, message = WRONG[name]
    check_refused(client.post("/api/explain", json={"scene": scene, "question": question}), 422, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": None}, "scene.layout"),
        ({"photo": "x"}, "not a PNG"),
        ({"photo": base64.b64encode(png(np.zeros((4, 4, 3), np.uint8))).decode()}, "must be 64 x 32 pixels"),
        ({"name": 3}, "scene.name is 3"),
        ({"start": {"background": "", "blobs": []}}, "the layout has 0 blobs"),
        ({"decision": "nobody"}, "no decision model 'nobody'"),
        ({"more": 1}, "unknown key scene.more"),
    ],
)
def test_wrong_scenes_are_refused(client: TestClient, scene: Json, change: Json, message: str) -> None:
    check_refused(client.post("/api/draw", json=scene | change), 422, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": True}, "blobs[1].x is True"),
        ({"size": 1e9}, "blobs[1].size"),
        ({"covs": [0, 0, 0, 0]}, "direction that is not zero"),
        ({"covs": [1.0]}, "direction that is not zero"),
        ({"look": "?"}, "not base64"),
        ({"look": "AAAA"}, "belongs to another generator"),
        ({"look": base64.b64encode(np.full(16, np.nan, "<f4").tobytes()).decode()}, "invalid or too large numbers"),
    ],
)
def test_wrong_blobs_are_refused(client: TestClient, scene: Json, change: Json, message: str) -> None:
    check_refused(client.post("/api/draw", json=edited(scene, 1, **change)), 422, message)


def check_refused(response: Any, status: int, message: str) -> None:
    """One sentence that says what is wrong, and nothing else."""
    assert response.status_code == status, response.text
    content = response.json()
    assert set(content) == {"error"} and message in content["error"], content
    assert "\n" not in content["error"] and "Traceback" not in content["error"] and len(content["error"]) <= 300


def test_invalid_json_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = {"content-type": "application/json"}
    for body in (b"{", b'{"seed": NaN}', b"[" * 100_000, b"\xff", b'{"seed": ' + b"9" * 5000 + b"}"):
        check_refused(client.post("/api/sample", content=body, headers=typed), 422, "not valid JSON")
    check_refused(client.post("/api/sample", content=b'{"seed": 1e999}', headers=typed), 422, "sample.seed is inf")
    check_refused(client.post("/api/sample", json=[1]), 422, "it must be a mapping")
    check_refused(client.post("/api/sample", json={}), 422, "missing key sample.seed: add it")
    check_refused(client.post("/api/sample", content=b"{}"), 415, "application/json")
    check_refused(client.post("/api/explain", json={}), 422, "send both")
    check_refused(client.get("/api/sample"), 405, "does not support")
    check_refused(client.get("/../cli.py"), 404, "nothing at this address")
    monkeypatch.setattr(server, "MAX_JSON", 10)
    check_refused(client.post("/api/sample", json={"seed": 12345}), 413, "larger than")


def test_invalid_uploads_are_refused(client: TestClient, photo: np.ndarray) -> None:
    large = io.BytesIO()
    Image.new("1", (5000, 4001)).save(large, format="PNG")
    check_refused(client.post("/api/photo?name=huge.png", content=large.getvalue()), 422, "huge.png has more than 20")
    check_refused(client.post("/api/photo?name=a/b.txt", content=b"hello"), 422, "b.txt is not an image")
    check_refused(client.post("/api/photo", content=b""), 422, "photo is not an image")
    damaged = client.post("/api/photo?name=cut.png", content=png(photo)[:-500])
    check_refused(damaged, 422, "cut.png cannot be decoded")


def test_names_of_files_are_harmless() -> None:
    assert short_name("../../etc/pass\nwd") == "pass_wd" and short_name("C:\\photos\\a.jpg") == "a.jpg"
    assert short_name("") == short_name("/") == "picture" and len(short_name("x" * 999)) == 100


def test_unexpected_errors_show_no_traceback(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(studio, "sample", fail)
    quiet = TestClient(server.application(studio), base_url=ADDRESS, raise_server_exceptions=False)
    check_refused(quiet.post("/api/sample", json={"seed": 1}), 500, "something went wrong")


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"host": "127.0.0.1:7860"}, True),
        ({"host": "localhost:8000", "origin": "http://localhost:8000"}, True),
        ({"host": "[::1]:7860", "sec-fetch-site": "same-origin"}, True),
        ({"host": "192.168.1.7:7860"}, True),
        ({"host": "studio.example"}, True),
        ({"host": "evil.example:7860"}, False),
        ({"host": ""}, False),
        ({"host": "["}, False),
        ({"host": "127.0.0.1:7860", "origin": "http://evil.example"}, False),
        ({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:8888"}, False),
        ({"host": "127.0.0.1:7860", "origin": "null"}, False),
        ({"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, False),
        ({"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),
    ],
)
def test_other_pages_may_not_use_the_server(headers: dict[str, str], allowed: bool) -> None:
    assert (refusal(Headers(headers), ("localhost", "studio.example")) == "") is allowed


def test_responses_have_security_headers(client: TestClient) -> None:
    for name in ("", "page.css", "main.js", "stage.js", "panels.js", "edits.js", "calls.js", "icon.svg"):
        response = client.get(f"/{name}")
        assert response.status_code == 200 and "default-src 'none'" in response.headers["content-security-policy"]
    assert "http" not in client.get("/").text  # nothing from elsewhere
    check_refused(client.get("/api/model", headers={"host": "evil.example"}), 403, "must be opened by an address")


def test_a_job_stops_when_the_client_is_gone() -> None:
    ended, turn = threading.Event(), threading.Lock()

    def work(progress: Progress) -> Json:
        try:
            progress.last = 0
            while True:
                progress(lambda: torch.zeros(3, 2, 2))
                progress.last = 0
        finally:
            ended.set()

    async def watch() -> list[int]:
        job = events(work, turn, of=9)
        steps = [(await anext(job))["step"] for _ in range(3)]
        await job.aclose()
        return steps

    assert asyncio.run(watch()) == [1, 2, 3]
    assert ended.wait(5)
    assert turn.acquire(timeout=5)


def test_blobs_are_named_by_their_groups(tmp_path: Path, folder: Path) -> None:
    assert blob_names(folder / "models", "rect", 3) == ("blob 0", "blob 1", "blob 2")
    network = load_blobgan(folder / "models/blobgan/rect")
    slots = {"lane": 1, "side_lane": 2}
    weights.save(tmp_path / "blobgan/rect", "blobgan", network.config() | {"start": "pretrained"}, network)
    weights.save(tmp_path / "blobgan_pretrain/rect", "blobgan_pretrain", {"slots": slots}, network)
    assert blob_names(tmp_path, "rect", 3) == ("lane", "side lane 1", "side lane 2")
    assert blob_names(tmp_path, "rect", 4)[3] == "blob 3"  # of another generator


def test_regions_depend_on_the_kind_of_model() -> None:
    box = WireQuestion(region=[0.0, 0.25, 0.5, 1.0])
    assert request(box, "segmentation").region == (0.0, 0.25, 0.5, 1.0)
    assert request(box, "classes").only == "0.000000,0.250000,0.500000,1.000000"
    corners = WireQuestion(region=[0, 0, 1, 0, 0.5, 1.0])
    assert request(corners, "attributes").only == "0.000000,0.000000 1.000000,0.000000 0.500000,1.000000"


def test_a_regression_is_described_and_asked_for_a_range(folder: Path, tmp_path: Path) -> None:
    """Its numbers are shown as they are, also above 1."""
    (tmp_path / "speed.py").write_text("def net(images):\n    return 50 + 10 * images.mean((2, 3))[:, :1]\n")
    (tmp_path / "card.yaml").write_text("model: speed.py:net\nkind: regression\noutputs: [speed]\n")
    card = str(tmp_path / "card.yaml")
    studio = Studio.open("rect", folder / "models", load_params(folder / "params.yaml"), "cpu", card)
    described = model(studio, card)
    assert (described["kind"], described["outputs"], described["decision"]) == ("regression", ["speed"], card)
    explainer = studio.explainer(card)
    outputs = explainer.outputs(smooth_images(1))
    assert torch.equal(probabilities("regression", outputs), outputs) and outputs.min() > 30
    wanted = request(WireQuestion(attribute="speed", between=[40.0, 45]), "regression")
    assert explainer.plan(wanted).wanted == Range(40, 45)
    assert request(WireQuestion(at_least=3), "regression").at_least == 3
    with pytest.raises(BlobexError, match="say which to reach"):
        explainer.plan(request(WireQuestion(attribute="speed"), "regression"))


def test_a_port_in_use_is_reported(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BlobexError, match=r"cannot listen on 127.0.0.1, port \d+ \(.*\): give another port"):
            server.listening("127.0.0.1", taken.getsockname()[1])
    with server.listening("127.0.0.1", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
    assert server.trained(folder / "models") == "rect"
    with pytest.raises(BlobexError, match="no trained networks"):
        server.trained(folder)


def test_the_command_listens_on_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def serve(*arguments: Any) -> None:
        calls.append(arguments[:-1])
        arguments[-1](ADDRESS)

    monkeypatch.setattr(server, "serve", serve)
    plain = CliRunner().invoke(cli.app, ["app"])
    assert plain.stdout == f"open {ADDRESS} (Ctrl-C ends it)\n"
    assert calls == [(None, "127.0.0.1", 7860, Path("models"), Path("params.yaml"), None, None)]
    assert "no password" in CliRunner().invoke(cli.app, ["app", "--host", "0.0.0.0"]).stdout
