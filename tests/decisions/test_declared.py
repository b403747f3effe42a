"""What modules declare of their input and classes, in the forms of timm and transformers."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from worlds.decision_models import assert_same, by_hand, network, noise, opened_object

from blobex.core.errors import BlobexError
from blobex.decisions.decision import Input
from blobex.decisions.declared import declared_input, declared_names, ordered_names

TIMM = {
    "input_size": (3, 20, 28),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
    "num_classes": 3,
}


class Fixed(nn.Module):
    """Takes images of 32 x 32 only, as a transformer of patches does."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, 3)

    def forward(self, images):
        return self.head(images.flatten(1))


def with_attributes(net, **attributes):
    for key, value in attributes.items():
        setattr(net, key, value)
    return net.eval()


@pytest.mark.parametrize("key", ["pretrained_cfg", "default_cfg"])
def test_input_of_timm(key):
    net = with_attributes(network(), **{key: TIMM})
    decision = opened_object(net)
    assert_same(decision.logits, lambda x: net(by_hand(x, (20, 28), TIMM["mean"], TIMM["std"])), noise())
    assert declared_input(with_attributes(network(), default_cfg={"num_classes": 3})) == Input()
    bicubic = declared_input(with_attributes(network(), pretrained_cfg=TIMM | {"interpolation": "bicubic"}))
    assert bicubic.resize == "bicubic"
    assert declared_input(nn.DataParallel(net)) == declared_input(net)


def test_settings_of_transformers():
    labels = {1: "dog", 0: "cat", 2: "bus"}
    net = with_attributes(Fixed(), config=SimpleNamespace(image_size=32, id2label=labels))
    decision = opened_object(net)
    assert decision.outputs == ("cat", "dog", "bus")
    direct = {"size": (32, 32), "mode": "bilinear", "antialias": True}
    assert_same(decision.logits, lambda x: net(nn.functional.interpolate(x, **direct)), noise())
    pair = with_attributes(network(), config={"image_size": [12, 20]})
    assert declared_input(pair) == Input(12, 20)
    for nothing in (None, "large", [1, 2, 3], 0):
        assert declared_input(with_attributes(network(), config={"image_size": nothing})) == Input()


def test_names_of_another_number_are_ignored():
    net = with_attributes(network(), id2label={"0": "a", "1": "b"})
    assert declared_names(net) == ("a", "b")
    assert opened_object(net).outputs == ("0", "1", "2")
    assert declared_names(with_attributes(network(), id2label={5: "a"})) == ()


def test_ordered_names():
    assert ordered_names({"1": "b", "0": "a"}) == ("a", "b")
    assert ordered_names({0: "a", 2: "c"}) is None and ordered_names({}) == ()


def test_model_of_one_size_is_refused_with_the_lines_that_mend_it():
    with pytest.raises(BlobexError, match=r"fails on two grey images .*; it takes 32 x 32: write `height: 32` and"):
        opened_object(Fixed())


class Features(nn.Module):
    """A model with a method `features` of its own meaning."""

    def __init__(self, features):
        super().__init__()
        self.calls = []
        self.kind = features

    def forward(self, images):
        return images.mean((2, 3))

    def features(self, images, mask):
        self.calls.append("features")
        raise RuntimeError("not for you")


def test_another_method_named_features_is_not_called():
    net = Features("other")
    decision = opened_object(net)
    assert net.calls == [] and decision.notes == ()
    torch.testing.assert_close(decision.features(noise()), noise().mean((2, 3)))


@pytest.mark.parametrize(
    "features",
    [lambda images: ["names"], lambda names: names["a"], lambda images: images.mean(), lambda images: images.detach()],
)
def test_features_that_fail_are_left_out_and_named(features):
    net = network().eval()
    net.features = features
    decision = opened_object(net)
    (note,) = decision.notes
    assert note.startswith("the outputs of Sequential are compared instead of its features: ")
    assert torch.equal(decision.features(noise()), decision.logits(noise()))
