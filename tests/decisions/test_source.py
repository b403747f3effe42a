"""Decisions of any callable: logits, features, gradients, and that the model is restored afterwards."""

import dataclasses
import io

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from worlds.decision_models import CPU, IMAGENET, Segmenter, assert_same, by_hand, gradient, network, noise
from worlds.decision_models import opened_object as opened

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError
from blobex.decisions.decision import Decision, Input, frozen_eval, output_index, prepare
from blobex.decisions.probe import check
from blobex.decisions.source import from_callable


def state(net):
    """All tensors of a module as bytes, its modes, and its gradient flags."""
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    modes = [module.training for module in net.modules()]
    return buffer.getvalue(), modes, [parameter.requires_grad for parameter in net.parameters()]


def test_images_are_prepared_as_by_hand():
    images = noise()
    ours = prepare(images, IMAGENET)
    torch.testing.assert_close(ours, by_hand(images, (24, 40), IMAGENET.mean, IMAGENET.std))
    assert torch.equal(prepare(images, Input()), images)
    # torchvision's own transforms of the same images
    preset = torchvision.transforms._presets.ImageClassification(crop_size=8, resize_size=8)
    square = noise(2, 16, 16)
    declared = Input(8, 8, tuple(preset.mean), tuple(preset.std))
    torch.testing.assert_close(prepare(square, declared), preset((square + 1) / 2))
    bicubic = F.interpolate(images, (8, 20), mode="bicubic", align_corners=False, antialias=True)
    torch.testing.assert_close(prepare(images, Input(8, 20, resize="bicubic")), bicubic)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(None, None, (16, 32)), (8, None, (8, 16)), (None, 8, (4, 8)), (5, 7, (5, 7)), (None, 1, (1, 1))],
)
def test_missing_sizes(height, width, expected):
    assert Input(height, width).size(16, 32) == expected
    assert prepare(noise(), Input(height, width)).shape[2:] == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 0}, "no size"),
        ({"width": -3}, "no size"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"std": (0.5, 0.5, 0.0)}, "above 0"),
        ({"std": (0.5, 0.5, float("nan"))}, "above 0"),
        ({"resize": "nearest"}, "unknown resize"),
    ],
)
def test_invalid_inputs_raise(changes, words):
    with pytest.raises(BlobexError, match=words):
        Input(**changes)


def test_logits_of_a_module():
    net = network()
    decision = from_callable(net, "classes", ["a", "b", "c"], IMAGENET)
    with frozen_eval(decision):
        assert_same(decision.logits, lambda x: net(by_hand(x, (24, 40), IMAGENET.mean, IMAGENET.std)), noise())
        assert torch.equal(decision.features(noise()), decision.logits(noise()))
    assert decision.modules == (net,) and decision.name == "Sequential" and decision.kind == "classes"


def test_double_precision_module_returns_single_precision():
    net = network().double().eval()
    decision = from_callable(net, "attributes", ["a", "b", "c"])
    logits = decision.logits(noise())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, net(noise().double()).float())


def test_segmentation_has_the_size_of_the_images():
    net = Segmenter()
    decision = opened(net)
    assert decision.kind == "segmentation" and decision.outputs == tuple("01234")

    def direct(images):
        return F.interpolate(net.body(images), images.shape[2:], mode="bilinear", align_corners=False)

    assert_same(decision.logits, direct, noise())
    assert decision.logits(noise()).shape == (2, 5, 16, 32)
    cells = direct(noise()).softmax(1).reshape(2, 5, 8, 2, 8, 4).mean((3, 5)).flatten(1)
    torch.testing.assert_close(decision.features(noise()), cells)


def test_method_features():
    net = network()
    body = net[:6]
    net.features = lambda images: body(images)
    decision = opened(net)
    with frozen_eval(decision):
        assert_same(decision.features, body, noise())
    assert decision.features(noise()).shape == (2, 4)


def test_submodule_called_features_is_no_method():
    """torchvision's DenseNet calls its body so; its features are the input of the classifier."""
    torch.manual_seed(0)
    net = torchvision.models.DenseNet(4, (1, 1), num_init_features=8, num_classes=3).eval()
    decision = opened(net, 32, 32)
    assert_same(decision.features, lambda x: F.relu(net.features(x)).mean((2, 3)), noise(2, 32, 32))
    assert not net.classifier._forward_pre_hooks


def test_method_of_a_module_includes_the_module():
    net = network()
    before = state(net)
    decision = opened(net.forward)
    assert decision.modules == (net,) and state(net) == before
    with frozen_eval(decision):
        assert torch.equal(decision.logits(noise()), net(noise()))


def test_functions_are_models():
    decision = opened(lambda x: x.mean((2, 3))[:, :1])
    assert (decision.kind, decision.outputs, decision.modules) == ("attributes", ("0",), ())
    assert opened(lambda x: x.mean((2, 3))).kind == "classes"
    named = opened(lambda x: x.mean((2, 3)), kind="attributes", outputs=["red", "green", "blue"])
    assert named.kind == "attributes" and named.outputs == ("red", "green", "blue")
    torch.testing.assert_close(named.logits(noise()), noise().mean((2, 3)))


@pytest.mark.parametrize("failing", [False, True])
def test_frozen_eval_restores_modes_and_gradients(failing):
    net = network()
    before = state(net)
    assert len(set(before[1])) == 2 and len(set(before[2])) == 2  # flags of both kinds
    decision = from_callable(net, "classes", "abc")
    try:
        with frozen_eval(decision) as inside:
            assert inside is decision
            assert not any(module.training for module in net.modules())
            assert not any(parameter.requires_grad for parameter in net.parameters())
            decision.logits(noise().requires_grad_()).sum().backward()
            if failing:
                raise InterruptedError
    except InterruptedError:
        assert failing
    assert state(net) == before and all(parameter.grad is None for parameter in net.parameters())


def test_probe_leaves_a_module_as_it_was():
    net = network()
    before = state(net)
    opened(net)
    assert state(net) == before


def test_frozen_eval_of_shared_and_scripted_modules():
    net = network()
    with pytest.warns(FutureWarning, match="deprecated"):
        script = torch.jit.script(network())
    script.train()
    frozen = torch.export.export(network().eval(), (noise(),)).module()
    decision = Decision("many", "classes", (), net, net, (net, net, script, frozen))
    before = [module.training for root in decision.modules for module in root.modules()]
    with frozen_eval(decision):
        assert not any(module.training for root in decision.modules for module in root.modules())
    assert [module.training for root in decision.modules for module in root.modules()] == before


def test_results_are_repeatable():
    decision = opened(network())
    with frozen_eval(decision):
        first, second = (gradient(decision.logits, noise()) for _ in range(2))
        assert torch.equal(first, second)
        one_by_one = torch.cat([decision.logits(image[None]) for image in noise(3)])
        torch.testing.assert_close(one_by_one, decision.logits(noise(3)))


def no_gradient(images):
    return images.detach().mean((2, 3))


def broken(images):
    raise KeyError("weights")


class Counter(nn.Module):
    """Changes with every image, even in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images):
        self.seen += 1
        return images.mean((2, 3)) + self.seen


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (no_gradient, {}, "no_gradient have no gradient to the image"),
        (lambda x: x.mean((2, 3)).argmax(1, keepdim=True), {}, "no gradient"),
        (lambda x: torch.zeros(2, 3, requires_grad=True) * 1, {}, "no gradient"),
        (broken, {}, r"broken fails on two grey images \(KeyError: 'weights'\)"),
        (lambda x: x.mean((2, 3)) / 0, {}, "not finite"),
        (lambda x: x.mean((2, 3))[:1], {}, r"\(1, 3\) for 2 images"),
        (lambda x: x, {"kind": "classes"}, r"\(2, 3, 16, 32\) for 2 images: classes needs \(N,A\)"),
        (lambda x: x.mean((2, 3)), {"kind": "segmentation"}, "segmentation needs"),
        (lambda x: x.mean((2, 3)), {"kind": "boxes"}, "unknown kind 'boxes'"),
        (lambda x: x.mean((2, 3)), {"outputs": ["a", "b"]}, "3 outputs but 2 names"),
        (lambda x: x.mean((2, 3))[..., None], {}, r"\(2, 3, 1\) for 2 images: classes needs \(N,A\)"),
        (Counter(), {}, "Counter changes with every image"),
        (nn.Linear, {}, "not a class"),
        (3, {}, "3 is no model"),
    ],
)
def test_unsuitable_models_raise(model, options, words):
    with pytest.raises(BlobexError, match=words) as caught:
        opened(model, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_changed_buffers_are_restored():
    counter = Counter()
    with pytest.raises(BlobexError):
        opened(counter)
    assert counter.seen == 0


def test_decisions_are_taken_unchanged():
    decision = from_callable(network(), "classes", ["a", "b", "c"])
    assert opened(decision) is decision and check(decision, ImageSize(16, 1), CPU) is decision
    with pytest.raises(BlobexError, match="is a Decision"):
        opened(decision, kind="classes")
    with pytest.raises(BlobexError, match="3 outputs but 1 names"):
        opened(dataclasses.replace(decision, outputs=("a",)))
    with pytest.raises(BlobexError, match=r"features .*\(N,D\)"):
        opened(dataclasses.replace(decision, features=lambda x: x))


def test_output_index_by_name_or_number():
    names = ("crane", "bus", "crane", "1")
    decision = from_callable(network(4), "classes", names)
    assert output_index(decision, "bus") == 1
    assert output_index(decision, "1") == 3  # names take precedence
    assert output_index(decision, 0) == 0 and output_index(decision, "2") == 2
    for name, words in [("crane", "2 outputs 'crane'.*0, 2"), ("tram", "no output 'tram': choose from crane, bus")]:
        with pytest.raises(BlobexError, match=words):
            output_index(decision, name)
    for name in (4, -1, "-1", ""):
        with pytest.raises(BlobexError, match="no output"):
            output_index(decision, name)
    many = dataclasses.replace(decision, outputs=tuple(f"class {number}" for number in range(1000)))
    with pytest.raises(BlobexError) as caught:
        output_index(many, "tram")
    assert str(caught.value).endswith("...") and len(str(caught.value)) < 300
