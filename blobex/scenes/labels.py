"""The category numbers of Cityscapes and BDD100K that pictures are labelled with."""

from __future__ import annotations

# BDD100K's ten detection categories, in its own order.
DETECTION = (
    "pedestrian",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
    "traffic light",
    "traffic sign",
)

# Train ids 0 to 18 of Cityscapes and of BDD100K's semantic masks.
SEMANTIC = (
    "road",
    "sidewalk",
    "building",
    "wall",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "vegetation",
    "terrain",
    "sky",
    "person",
    "rider",
    "car",
    "truck",
    "bus",
    "train",
    "motorcycle",
    "bicycle",
)
UNKNOWN = 255

# Categories 0 to 40 of BDD100K's panoptic bitmasks; from "person" on they are counted one by one (things).
PANOPTIC = (
    "unlabeled",
    "dynamic",
    "ego vehicle",
    "ground",
    "static",
    "parking",
    "rail track",
    "road",
    "sidewalk",
    "bridge",
    "building",
    "fence",
    "garage",
    "guard rail",
    "tunnel",
    "wall",
    "banner",
    "billboard",
    "lane divider",
    "parking sign",
    "pole",
    "polegroup",
    "street light",
    "traffic cone",
    "traffic device",
    "traffic light",
    "traffic sign",
    "traffic sign frame",
    "terrain",
    "vegetation",
    "sky",
    "person",
    "rider",
    "bicycle",
    "bus",
    "car",
    "caravan",
    "motorcycle",
    "trailer",
    "train",
    "truck",
)
FIRST_THING = PANOPTIC.index("person")

# BDD100K's drivable masks.
DRIVABLE = ("direct", "alternative", "background")
