"""Category names of Cityscapes and BDD100K; the index of a name is its number in label maps."""

from __future__ import annotations

# fmt: off
# Detection categories of BDD100K.
DETECTION = (
    "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "traffic light", "traffic sign",
)
# Train ids of Cityscapes and of BDD100K's semantic masks.
SEMANTIC = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)
UNKNOWN = 255
# Categories of BDD100K's panoptic bitmasks; those from "person" on are things, whose instances are numbered.
PANOPTIC = (
    "unlabeled", "dynamic", "ego vehicle", "ground", "static", "parking", "rail track", "road", "sidewalk", "bridge",
    "building", "fence", "garage", "guard rail", "tunnel", "wall", "banner", "billboard", "lane divider",
    "parking sign", "pole", "polegroup", "street light", "traffic cone", "traffic device", "traffic light",
    "traffic sign", "traffic sign frame", "terrain", "vegetation", "sky", "person", "rider", "bicycle", "bus", "car",
    "caravan", "motorcycle", "trailer", "train", "truck",
)
FIRST_THING = PANOPTIC.index("person")
# Categories of BDD100K's drivable masks.
DRIVABLE = ("direct", "alternative", "background")
# fmt: on
