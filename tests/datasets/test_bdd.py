"""BDD100K and BDD-OIA: the synthetic data set read back, and data in the published form."""

import hashlib
import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.datasets import bdd
from blobex.datasets.bdd_files import load_bitmask, load_mask, missing_parts
from blobex.datasets.images import fit_mask, load_image
from blobex.scenes.labels import PANOPTIC, SEMANTIC
from blobex.scenes.render import Box, render
from blobex.scenes.rules import RULES, actions, reasons
from blobex.scenes.sample import sample
from blobex.scenes.write import DatasetCounts, image_name, scene_of, seed_ranges, write_dataset, write_images

COUNTS = DatasetCounts(6, 3, 4, 2, 5, 3, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(root, COUNTS, 32, 3)
    return root


@pytest.fixture
def root(written, tmp_path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "copy"))


def fingerprint(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_detection_and_drivable_round_trip(written):
    for split, count in (("train", 6), ("val", 3)):
        detections, drivable = bdd.read_detection(written, split), bdd.read_drivable(written, split)
        assert len(detections) == len(drivable) == count
        for detection, masked in zip(detections, drivable, strict=True):
            rendering = render(scene_of(detection.image), 32)
            assert detection.boxes == rendering.boxes
            assert detection.image == masked.image
            assert np.array_equal(load_mask(masked.mask, 3), rendering.drivable)
            assert np.abs(load_image(detection.image).astype(int) - rendering.image).mean() < 3


def test_semantic_and_panoptic_round_trip(written):
    for semantic, panoptic in zip(
        bdd.read_semantic(written, "train"), bdd.read_panoptic(written, "train"), strict=True
    ):
        rendering = render(scene_of(semantic.image), 32)
        assert np.array_equal(load_mask(semantic.mask, 19), rendering.semantic)
        decoded = load_bitmask(panoptic.mask)
        assert np.array_equal(decoded.category, rendering.panoptic)
        counted = rendering.instance > 0
        assert np.array_equal(decoded.instance[counted], rendering.instance[counted])
        for segment in np.unique(decoded.instance):
            assert len(np.unique(decoded.category[decoded.instance == segment])) == 1
        assert not decoded.crowd.any()


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("val", 3), ("test", 2)])
def test_decisions_round_trip(written, split, count):
    plain, biased = bdd.read_decisions(written, split), bdd.read_decisions(written, split, biased=True)
    assert len(plain) == len(biased) == count
    for one, two in zip(plain, biased, strict=True):
        scene = scene_of(one.image)
        assert (one.actions, one.reasons) == (actions(scene), reasons(scene))
        assert (two.image, two.actions, two.reasons) == (one.image, RULES["biased"].actions(scene), reasons(scene))


def test_same_seed_writes_the_same_bytes(written, tmp_path):
    ticks: list[tuple[int, int]] = []
    write_dataset(tmp_path / "again", COUNTS, 32, 3, progress=lambda done, total: ticks.append((done, total)))
    assert fingerprint(tmp_path / "again") == fingerprint(written)
    assert ticks == [(done, 25) for done in range(1, 26)]


def test_manifest(written):
    manifest = json.loads((written / "scenes.json").read_text())
    assert (manifest["height"], manifest["width"], manifest["seed"]) == (32, 64, 3)
    for entry in manifest["sets"].values():
        for seed in range(entry["first_seed"], entry["first_seed"] + entry["count"]):
            assert (written / entry["pictures"] / f"{image_name(seed)}.jpg").is_file()


def test_splits_and_data_sets_share_no_seed():
    counts = DatasetCounts(*[1_000_000] * 7)
    spans = sorted((seeds.start, seeds.stop) for seed in (0, 1, 2) for seeds in seed_ranges(counts, seed).values())
    assert all(stop <= start for (_, stop), (start, _) in pairwise(spans))
    larger = seed_ranges(replace(COUNTS, detection_train=600), 3)
    assert all(larger[name].start == seeds.start for name, seeds in seed_ranges(COUNTS, 3).items())
    for wrong in (0, 1_000_001):
        with pytest.raises(BlobexError, match="decision_val"):
            seed_ranges(replace(COUNTS, decision_val=wrong), 0)


def test_interrupted_run_leaves_no_files(tmp_path):
    def stop(done: int, total: int) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "scenes", COUNTS, 32, 0, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_existing_data_set_is_not_overwritten(root):
    before = fingerprint(root)
    with pytest.raises(BlobexError, match="exists already"):
        write_dataset(root, COUNTS, 32, 0)
    assert fingerprint(root) == before


def test_scene_of_other_images_is_refused():
    assert scene_of("x/scene-00000012.jpg") == sample(12)
    with pytest.raises(BlobexError, match="scene-<seed>"):
        scene_of("b1c66a42-6f7d68ca.jpg")


READERS = [
    ("bdd100k/labels/det_20/det_train.json", bdd.read_detection, "Detection 2020"),
    ("bdd100k/labels/drivable/masks/train", bdd.read_drivable, "drivable area masks"),
    ("bdd100k/labels/sem_seg/masks/train", bdd.read_semantic, "semantic segmentation masks"),
    ("bdd100k/labels/pan_seg/bitmasks/train", bdd.read_panoptic, "panoptic bitmasks"),
    ("bdd_oia/lastframe/gt_4a_21r/train_25k_images_actions.json", bdd.read_decisions, "actions of BDD-OIA"),
    ("bdd_oia/lastframe/gt_4a_21r/train_25k_images_reasons.json", bdd.read_decisions, "reasons of BDD-OIA"),
    ("bdd100k/images/100k/train", bdd.read_detection, "5 more images"),
    ("bdd100k/images/10k/train", bdd.read_semantic, "3 more images"),
    ("bdd_oia/lastframe/data", bdd.read_decisions, "4 more images"),
]


@pytest.mark.parametrize(("part", "reader", "words"), READERS)
def test_error_names_the_missing_part(root, part, reader, words):
    path = root / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(BlobexError, match=words) as caught:
        reader(root, "train")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_each_missing_part_is_listed(root):
    assert missing_parts(root) == []
    for number, (part, _, words) in enumerate(READERS, 1):
        remove(root / part)
        lines = missing_parts(root)
        found = [line for line in lines if f" at {root / part} (unpack " in line and ".zip in " in line]
        assert len(found) == 1 and len(lines) == number
        assert "images" in words or words in found[0]


def test_error_names_all_missing_parts_and_their_archives(root):
    for part in ("bdd100k/labels/drivable/masks/train", "bdd100k/images/10k/val", "bdd_oia/lastframe/data"):
        remove(root / part)
    (root / "bdd100k/images/100k/train").rename(root / "elsewhere")
    (root / "bdd100k/images/100k/train").mkdir()  # empty
    lines = missing_parts(root)
    assert len(lines) == 4
    calls = (bdd.read_drivable, bdd.read_detection, bdd.list_100k, bdd.read_decisions)
    for call in calls:
        with pytest.raises(BlobexError) as caught:
            call(root, "train")
        assert all(line in str(caught.value) for line in lines) and "\n" not in str(caught.value)
    for archive in (
        "bdd100k_drivable_labels_trainval.zip",
        "10k_images_val.zip",
        "100k_images_train.zip",
        "lastframe.zip",
    ):
        assert f"unpack {archive} in {root}" in str(caught.value)
    with pytest.raises(BlobexError, match=r"no folder .*nowhere: run .*data\.root"):
        bdd.read_drivable(root / "nowhere", "train")


def test_images_may_lie_in_subfolders(root):
    plain = [bdd.read_detection(root, "train"), bdd.read_semantic(root, "val"), bdd.read_decisions(root, "test")]
    for place in ("bdd100k/images/100k/train", "bdd100k/images/10k/val", "bdd_oia/lastframe/data"):
        for number, path in enumerate(sorted((root / place).iterdir())):
            if number % 2:
                (path.parent / "more").mkdir(exist_ok=True)
                path.rename(path.parent / "more" / path.name)
    moved = [bdd.read_detection(root, "train"), bdd.read_semantic(root, "val"), bdd.read_decisions(root, "test")]
    for before, after in zip(plain, moved, strict=True):
        assert {record.image.name: record.image.is_file() for record in after} == {
            record.image.name: True for record in before
        }
    assert [replace(record, image=Path(record.image.name)) for record in moved[0]] == [
        replace(record, image=Path(record.image.name)) for record in plain[0]
    ]
    assert len(bdd.list_100k(root, "train")) == 6


def test_archive_of_decisions_may_be_unpacked_a_level_higher(root):
    wanted = [replace(record, image=Path(record.image.name)) for record in bdd.read_decisions(root, "val")]
    folder = root / "bdd_oia"
    for file in (folder / "lastframe/gt_4a_21r").iterdir():
        file.rename(folder / file.name)
    (folder / "lastframe/data").rename(folder / "data")
    shutil.rmtree(folder / "lastframe")
    found = bdd.read_decisions(root, "val")
    assert [replace(record, image=Path(record.image.name)) for record in found] == wanted
    assert missing_parts(root) == []


@pytest.mark.parametrize("content", ["{", "[1]", "{}", '[{"name": 3}]', '[{"file_name": "a", "reason": [1]}]', "\x00"])
@pytest.mark.parametrize(("part", "reader", "_"), [case for case in READERS if case[0].endswith("json")])
def test_malformed_json_is_one_sentence(root, part, reader, _, content):
    (root / part).write_text(content)
    with pytest.raises(BlobexError, match=str(root / part).replace(".", r"\.")) as caught:
        reader(root, "train")
    assert "\n" not in str(caught.value)


def test_unknown_splits_are_refused(written):
    with pytest.raises(BlobexError, match="train, val"):
        bdd.read_semantic(written, "test")


def test_frames_in_the_published_form(tmp_path):
    images, labels = tmp_path / "bdd100k/images/100k/val", tmp_path / "bdd100k/labels/det_20"
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    corners = {"x1": 1125.902264, "y1": 133.18, "x2": 1156.978645, "y2": 210.87}
    frames = [
        {"name": "a.jpg", "attributes": {"weather": "rainy", "timeofday": "dawn/dusk"}},
        {
            "name": "b.jpg",
            "labels": [
                {"id": "9", "category": "other vehicle", "box2d": corners},
                {"id": "x-1", "category": "traffic light", "box2d": corners, "attributes": {"trafficLightColor": "Y"}},
                {"category": "rider", "box2d": corners, "attributes": {"occluded": True, "trafficLightColor": "NA"}},
            ],
        },
    ]
    (labels / "det_val.json").write_text(json.dumps(frames))
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (8, 4)).save(images / name)
    first, second = bdd.read_detection(tmp_path, "val")
    assert (first.boxes, first.weather, first.time) == ((), "rainy", "dawn/dusk")
    light, rider = second.boxes
    assert (light.category, light.light, light.x1, second.weather) == (
        "traffic light",
        "yellow",
        1125.902264,
        "undefined",
    )
    assert rider.occluded and rider.light == "none" and rider.instance != light.instance


CORNERS = {"x1": 1.0, "y1": 0.5, "x2": 3.0, "y2": 2.5}


def labelled(root: Path, path: str, categories: list[str]) -> None:
    """Write one 8x4 image and its labels, of which areas and lines have no box, as BDD100K's of 2018."""
    labels = [{"category": name, "id": number, "box2d": CORNERS} for number, name in enumerate(categories)]
    for name in ("drivable area", "lane"):
        labels.append({"category": name, "id": 99, "poly2d": [{"vertices": [[0, 0], [1, 1]]}]})
    (root / "bdd100k/images/100k/train").mkdir(parents=True)
    Image.new("RGB", (8, 4)).save(root / "bdd100k/images/100k/train/a.jpg")
    (root / path).parent.mkdir(parents=True)
    (root / path).write_text(json.dumps([{"name": "a.jpg", "labels": labels}]))


@pytest.mark.parametrize("path", ["det_20/det_train.json", "bdd100k_labels_images_train.json"])
def test_labels_of_2018_have_the_names_of_2020(tmp_path, caplog, path):
    """The ten categories of the 2018 release beside those of the 2020 one, from BDD100K's documentation."""
    old = ["person", "rider", "car", "truck", "bus", "train", "motor", "bike", "traffic light", "traffic sign"]
    new = ["pedestrian", *old[1:6], "motorcycle", "bicycle", "traffic light", "traffic sign"]
    labelled(tmp_path, f"bdd100k/labels/{path}", old)
    (record,) = bdd.read_detection(tmp_path, "train")
    assert [box.category for box in record.boxes] == new and [box.instance for box in record.boxes] == list(range(10))
    assert caplog.text == ""


def test_unknown_categories_are_counted_and_named(tmp_path, caplog):
    path = "bdd100k/labels/det_20/det_train.json"
    labelled(tmp_path, path, ["car", "other vehicle", "trailer", "other vehicle", "Car"])
    (record,) = bdd.read_detection(tmp_path, "train")
    assert [box.category for box in record.boxes] == ["car"]
    assert f"4 of 7 labels in {tmp_path / path}" in caplog.text
    assert "Car (1), other vehicle (2), trailer (1)" in caplog.text and caplog.text.count("\n") == 1


def test_labels_of_no_known_category_are_refused(tmp_path):
    labelled(tmp_path, "bdd100k/labels/det_20/det_train.json", ["Auto", "Auto", "Bus"])
    with pytest.raises(BlobexError, match=r"has no label of pedestrian, .*, but Auto \(2\), Bus \(1\): rename"):
        bdd.read_detection(tmp_path, "train")


def test_decisions_in_the_published_form(tmp_path):
    folder = tmp_path / "bdd_oia/lastframe"  # label files beside data/, ids out of order, a fifth action
    (folder / "data").mkdir(parents=True)
    images = [{"file_name": f"{name}.jpg", "id": number} for name, number in (("c", 0), ("a", 2), ("b", 1))]
    categories = [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 1, 1, 0, 0]]
    content = {"images": images, "annotations": [{"id": 7, "category": category} for category in categories]}
    (folder / "val_25k_images_actions.json").write_text(json.dumps(content))
    why = [
        {"file_name": f"{name}.jpg", "reason": [int(index == place) for index in range(21)]}
        for place, name in enumerate("abc")
    ]
    (folder / "val_25k_images_reasons.json").write_text(json.dumps(why))
    for name in "abc":
        Image.new("RGB", (8, 4)).save(folder / "data" / f"{name}.jpg")
    first, second = bdd.read_decisions(tmp_path, "val")
    assert (first.image.name, first.actions) == ("a.jpg", (False, True, True, False)) and first.reasons.index(True) == 0
    assert (second.image.name, second.actions) == ("c.jpg", (True, False, False, False)) and second.reasons.index(
        True
    ) == 2


def test_bitmask_by_hand(tmp_path):
    # BDD100K's documentation: G = (truncated << 3) + (occluded << 2) + (crowd << 1) + ignore, number = (B << 8) + A.
    car, sky = PANOPTIC.index("car"), PANOPTIC.index("sky")
    Image.fromarray(np.array([[[car, 0b1010, 1, 2], [sky, 0b0101, 0, 0]]], dtype=np.uint8)).save(tmp_path / "a.png")
    decoded = load_bitmask(tmp_path / "a.png")
    assert (car, sky) == (35, 30)
    assert decoded.category.tolist() == [[35, 30]] and decoded.instance.tolist() == [[258, 0]]
    assert decoded.crowd.tolist() == [[True, False]]


def test_wrong_label_maps_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 18, 19, 255]], dtype=np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(BlobexError, match="label 19"):
        load_mask(tmp_path / "a.png", len(SEMANTIC))
    assert load_mask(tmp_path / "a.png", 20).tolist() == [[0, 18, 19, 255]]
    for load in (load_bitmask, lambda path: load_mask(path, 3)):
        Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
        with pytest.raises(BlobexError, match="RGB"):
            load(tmp_path / "rgb.png")
        with pytest.raises(BlobexError, match="absent"):
            load(tmp_path / "absent.png")
        (tmp_path / "text.png").write_text("no")
        with pytest.raises(BlobexError, match="not an image"):
            load(tmp_path / "text.png")
    Image.fromarray(np.full((1, 1, 4), 77, dtype=np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(BlobexError, match="category 77"):
        load_bitmask(tmp_path / "b.png")


def test_fitted_boxes_frame_the_fitted_masks():
    for seed in range(12):
        rendering = render(sample(seed), 64)
        square = fit_mask(rendering.instance, 64, 64)
        fitted = {box.instance: box for box in bdd.fit_boxes(rendering.boxes, (64, 128), 64, 64)}
        for number, box in fitted.items():
            rows, columns = np.nonzero(square == number)
            assert (box.x1, box.x2) == (columns.min(), columns.max() + 1)
            assert box.y1 <= rows.min() and rows.max() < box.y2
        assert set(np.unique(square).tolist()) - set(fitted) <= {0} | {
            number for number in range(1, 30) if number not in {box.instance for box in rendering.boxes}
        }


def test_fitted_boxes_by_hand():
    boxes = (Box("car", 300, 100, 700, 400), Box("car", 0, 0, 100, 100), Box("bus", 200, 0, 640, 720))
    car, bus = bdd.fit_boxes(boxes, (720, 1280), 360, 360)  # keeps columns 280 to 1000, halves them
    assert (car.x1, car.y1, car.x2, car.y2, car.truncated) == (10, 50, 210, 200, False)
    assert (bus.x1, bus.x2, bus.y2, bus.truncated) == (0, 180, 360, True)


def test_biased_decisions_follow_from_the_reasons_without_a_file(root):
    labels = root / "bdd_oia/lastframe/gt_4a_21r"
    (labels / "train_25k_images_biased_actions.json").unlink()
    for record in bdd.read_decisions(root, "train", biased=True):
        assert record.actions == RULES["biased"].actions(scene_of(record.image))


def test_single_images_are_of_scenes_of_no_data_set(tmp_path):
    paths = write_images(tmp_path / "photos", 3, 32, seed=1)
    assert sorted(tmp_path.rglob("*.jpg")) == sorted(paths) and len(set(paths)) == 3
    for path in paths:
        scene = scene_of(path)
        assert np.abs(load_image(path).astype(int) - render(scene, 32).image).mean() < 3
        for seed in (0, 1, 2):
            assert all(scene.seed not in seeds for seeds in seed_ranges(DatasetCounts(*[1_000_000] * 7), seed).values())
    with pytest.raises(BlobexError, match="0 scenes of seed 1"):
        write_images(tmp_path, 0, 32, seed=1)
    (tmp_path / "file").touch()
    with pytest.raises(BlobexError, match="cannot write into"):
        write_images(tmp_path / "file", 1, 32, seed=1)
