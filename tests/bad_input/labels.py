"""The data set's labels: BDD100K's and BDD-OIA's JSON and PNG files."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from bad_input.pictures import bomb, encoded
from bad_input.world import Case, Harm, cut, folder_at, gone, label, link_at, pipe_at, put
from blobex.config.data import Scenes

DETECTION = "data/scenes/bdd100k/labels/det_20/det_train.json"
DRIVABLE = "data/scenes/bdd100k/labels/drivable/masks/train/scene-00000000.png"
SEMANTIC = "data/scenes/bdd100k/labels/sem_seg/masks/train/scene-02000000.png"
PANOPTIC = "data/scenes/bdd100k/labels/pan_seg/bitmasks/train/scene-02000000.png"
ACTIONS, REASONS = (
    f"data/scenes/bdd_oia/lastframe/gt_4a_21r/train_25k_images_{name}.json" for name in ("actions", "reasons")
)
PARSER, DECISION = "stage parser rect", "stage decision rect plain"


def detection(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"boxes: {name}", harm, PARSER, ("det_train.json", *words))


def box(name: str, key: str, value: object, *words: str) -> Case:
    """Something else in the first label of the first picture."""
    return detection(name, label(DETECTION, f"0.labels.0.{key}", value), "not a list of Scalabel frames", *words)


def oia(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"decisions: {name}", harm, DECISION, words)


def image(name: str, key: str, value: object, *words: str) -> Case:
    return oia(name, label(ACTIONS, key, value), "train_25k_images_actions.json", *words)


def reason(name: str, key: str, value: object, *words: str) -> Case:
    return oia(name, label(REASONS, key, value), "train_25k_images_reasons.json", *words)


def mask(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"masks: {name}", harm, PARSER, words)


def manifest(name: str, content: bytes | str, *words: str) -> Case:
    """What DVC watches of the pictures, and what they are drawn again from."""
    return Case(f"manifest: {name}", put("data/scenes.json", content), "blobex data", ("data/scenes.json", *words))


def drawn(**changes: int) -> str:
    """The manifest of one scene of each kind, with a wrong checksum."""
    scenes = dict.fromkeys((field.name for field in dataclasses.fields(Scenes)), 1) | {"height": 16} | changes
    return json.dumps({"files": 1, "bytes": 1, "sha256": "0" * 64, "scenes": scenes})


def grey(mode: str, value: int, size: tuple[int, int] = (64, 32)) -> bytes:
    return encoded(Image.new(mode, size, value), "PNG")


def coloured(category: int) -> bytes:
    pixels = np.zeros((32, 64, 4), dtype=np.uint8)
    pixels[:, :, 0] = category
    return encoded(Image.fromarray(pixels), "PNG")


OUTSIDE = "../../../../../../photo.png"
DEEP = "[" * 100_000

BOXES = [
    detection("cut off", cut(DETECTION), "not valid JSON"),
    detection("empty", put(DETECTION, b""), "not valid JSON"),
    detection("Latin-1", put(DETECTION, '["für"]'.encode("latin-1")), "not valid JSON"),
    detection("too deep", put(DETECTION, DEEP), "not valid JSON"),
    detection("a number of 5,000 digits", put(DETECTION, f"[{'9' * 5000}]"), "not valid JSON"),
    detection("a text", put(DETECTION, '"labels"'), "not a list of Scalabel frames"),
    detection("null", put(DETECTION, "null"), "not a list of Scalabel frames"),
    detection("an empty list", put(DETECTION, "[]"), "names no images"),
    detection("a folder", folder_at(DETECTION), "cannot be read"),
    detection("a link to itself", link_at(DETECTION, "det_train.json"), "Detection 2020"),
    detection("a frame without a name", label(DETECTION, "0", {"labels": []}), "KeyError('name')"),
    detection("a frame that is a list", label(DETECTION, "0", []), "Scalabel"),
    detection("a name that is a number", label(DETECTION, "0.name", 7), "Scalabel"),
    detection("a name that is a list", label(DETECTION, "0.name", ["a.jpg"]), "Scalabel"),
    detection("a name that leads out", label(DETECTION, "0.name", OUTSIDE), OUTSIDE, "outside"),
    detection("an absolute name", label(DETECTION, "0.name", "/etc/hostname"), "/etc/hostname", "outside"),
    detection("an empty name", label(DETECTION, "0.name", ""), "Scalabel"),
    detection("a name with a zero byte", label(DETECTION, "0.name", "a\0.jpg"), "is missing or empty"),
    detection("a name of 10,000 letters", label(DETECTION, "0.name", "x" * 10_000), "Scalabel"),
    detection("a picture that is not there", label(DETECTION, "0.name", "scene-99999999.jpg"), "is missing or empty"),
    detection("labels that are a number", label(DETECTION, "0.labels", 5), "Scalabel"),
    detection("labels that are a mapping", label(DETECTION, "0.labels", {"category": "car"}), "Scalabel"),
    detection("attributes that are a list", label(DETECTION, "0.attributes", ["clear"]), "Scalabel"),
    box("a corner that is missing", "box2d", {"x1": 0, "y1": 0, "x2": 1}, "KeyError('y2')"),
    box("a corner that is a text", "box2d.x1", "left", "left"),
    box("a corner that is null", "box2d.x1", None),
    box("a corner that is a list", "box2d.x1", [1]),
    box("a corner that is no number", "box2d.x1", float("nan"), "nan"),
    box("a corner that is infinite", "box2d.y2", float("inf"), "inf"),
    box("a corner of 400 digits", "box2d.y2", 10**400),
    box("no corners", "box2d", None),
    box("corners as a list", "box2d", [0, 0, 1, 1]),
    box("a category that is a number", "attributes", 5),
    box("an id of 5,000 digits", "id", "9" * 5000),
]
OIA = [
    oia("cut off", cut(ACTIONS), "actions.json is not valid JSON"),
    oia("too deep", put(ACTIONS, DEEP), "actions.json is not valid JSON"),
    oia("reasons cut off", cut(REASONS), "reasons.json is not valid JSON"),
    oia("reasons too deep", put(REASONS, DEEP), "reasons.json is not valid JSON"),
    oia("no pictures", put(ACTIONS, '{"images": [], "annotations": []}'), "names no images"),
    image("images that are a number", "images", 4),
    image("no annotations", "annotations", []),
    image("an id below 0", "images.0.id", -1, "-1"),
    image("an id too large", "images.0.id", 10**9),
    image("an id that is a text", "images.0.id", "0"),
    image("an id that is no number", "images.0.id", float("nan")),
    image("a name without reasons", "images.0.file_name", "unknown.jpg", "KeyError"),
    image("a name that is a list", "images.0.file_name", ["a"]),
    image("too few actions", "annotations.0.category", [1, 0]),
    image("an action that is 2", "annotations.0.category", [2, 0, 0, 0]),
    image("actions that are a text", "annotations.0.category", "1000"),
    image("actions that are a mapping", "annotations.0.category", {"forward": 1}),
    image("an action that is no number", "annotations.0.category", [float("nan"), 0, 0, 0]),
    reason("too few reasons", "0.reason", [0] * 20),
    reason("a reason that is a text", "0.reason", ["0"] * 21),
    reason("a name that is a mapping", "0.file_name", {}),
    oia(
        "a name that leads out",
        lambda folder: (
            label(ACTIONS, "images.0.file_name", OUTSIDE)(folder),
            label(REASONS, "0.file_name", OUTSIDE)(folder),
        ),
        OUTSIDE,
        "outside",
    ),
    oia(
        "a picture that is not there",
        gone("data/scenes/bdd_oia/lastframe/data/scene-04000000.jpg"),
        "scene-04000000.jpg is missing or empty",
    ),
    oia(
        "a picture that is cut off",
        cut("data/scenes/bdd_oia/lastframe/data/scene-04000000.jpg"),
        "scene-04000000.jpg cannot be decoded",
    ),
    Case(
        "decisions: a rule of pictures that are no scenes",
        lambda folder: (
            label(ACTIONS, "images.0.file_name", "street.jpg")(folder),
            label(REASONS, "0.file_name", "street.jpg")(folder),
            put("data/scenes/bdd_oia/lastframe/data/street.jpg", encoded(Image.new("RGB", (64, 32)), "JPEG"))(folder),
        ),
        "stage decision rect night",
        ("rule night needs synthetic scenes",),
    ),
]
MASKS = [
    mask("drivable, in colours", put(DRIVABLE, grey("RGB", 0)), "scene-00000000.png is a RGB image"),
    mask("drivable, of 16 bits", put(DRIVABLE, grey("I;16", 0)), "scene-00000000.png is a I;16 image"),
    mask("drivable, an unknown label", put(DRIVABLE, grey("L", 7)), "scene-00000000.png holds the label 7"),
    mask("drivable, of another size", put(DRIVABLE, grey("L", 0, (10, 10))), "scene-00000000.png", "10x10"),
    mask("drivable, cut off", cut(DRIVABLE), "scene-00000000.png cannot be decoded"),
    mask("drivable, empty", put(DRIVABLE, b""), "scene-00000000.png"),
    mask("drivable, a bomb", put(DRIVABLE, bomb()), "scene-00000000.png", "100 megapixels"),
    mask("drivable, a pipe", pipe_at(DRIVABLE), "scene-00000000.png"),
    mask("drivable, a folder", folder_at(DRIVABLE), "scene-00000000.png"),
    mask("drivable, a link to nothing", link_at(DRIVABLE, "nowhere"), "scene-00000000.png"),
    mask("drivable, of no picture", put(DRIVABLE.replace("scene-", "street-"), grey("L", 0)), "street-00000000"),
    mask("semantic, an unknown label", put(SEMANTIC, grey("L", 19)), "scene-02000000.png holds the label 19"),
    mask("semantic, a bitmask", put(SEMANTIC, coloured(0)), "scene-02000000.png is a RGBA image"),
    mask("semantic, none at all", gone(str(Path(SEMANTIC).parent)), "semantic segmentation masks"),
    mask("panoptic, grey", put(PANOPTIC, grey("L", 0)), "scene-02000000.png is a L image"),
    mask("panoptic, an unknown category", put(PANOPTIC, coloured(200)), "holds the category 200"),
    mask("panoptic, of another size", put(PANOPTIC, grey("RGBA", 0, (1, 1))), "scene-02000000.png", "1x1"),
]
MANIFESTS = [
    manifest("cut off", '{"files": 1, ', "is damaged"),
    manifest("too deep", DEEP, "is damaged"),
    manifest("Latin-1", '{"für": 1}'.encode("latin-1"), "is damaged"),
    manifest("a list", "[1]", "is not a manifest"),
    manifest("scenes that are a text", '{"scenes": "many"}', "does not say how to render it", "'many'"),
    manifest("scenes of a height below 0", drawn(height=-5), "height is -5"),
    manifest("scenes without end", drawn(decision_test=10**12), "decision_test is 1000000000000"),
    manifest("scenes of another sum", drawn(), "the scenes rendered now are not those of data/scenes.json"),
]
CASES = [*BOXES, *OIA, *MASKS, *MANIFESTS]
