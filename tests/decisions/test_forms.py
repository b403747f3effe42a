"""Models in the forms that people have them in: each is explained as it is, or refused by a sentence that helps."""

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from worlds.decision_models import assert_same, gradient, network, noise, opened, opened_object

from blobex.core.errors import BlobexError
from blobex.decisions.decision import frozen_eval


class InPlace(nn.Module):
    """Changes its input."""

    def __init__(self):
        super().__init__()
        self.net = network().eval()

    def forward(self, images):
        return self.net(images.mul_(2).add_(1))


class Keyword(nn.Module):
    """A forward pass with further arguments, as transformers' models have."""

    def __init__(self):
        super().__init__()
        self.net = network().eval()

    def forward(self, pixel_values, labels=None, return_dict=True):
        logits = self.net(pixel_values)
        return {"loss": None, "logits": logits} if return_dict else (logits,)


class Frozen(nn.Module):
    """Has no parameters, only buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(3, 3, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        return images.mean((2, 3)) @ self.weight


def wrapped(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.DataParallel(net)


def traced(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(net, noise())


SAME = {  # as made of the network, which gives the same logits
    "wrapped in DataParallel": wrapped,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "part of another module": lambda net: nn.Sequential(nn.Identity(), net),
    "traced": traced,
    "symbolically traced": lambda net: torch.fx.symbolic_trace(net),
    "exported": lambda net: torch.export.export(net, (noise(),)).module(),
    "a bound method": lambda net: net.forward,
    "a function": lambda net: lambda images: net(images),
    "channels last": lambda net: copy.deepcopy(net).to(memory_format=torch.channels_last),
    "checkpointed": lambda net: lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False),
    "frozen parameters": lambda net: copy.deepcopy(net).requires_grad_(False),
    "left in training mode": lambda net: copy.deepcopy(net).train(),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # within torch.compile
@pytest.mark.parametrize("form", SAME)
def test_forms_of_one_network(form):
    net = network().eval()
    decision = opened_object(SAME[form](net))
    assert (decision.kind, decision.outputs, decision.notes) == ("classes", ("0", "1", "2"), ())
    with frozen_eval(decision):
        for count in (1, 2, 3):
            assert_same(decision.logits, net, noise(count))


@pytest.mark.parametrize("model", [InPlace(), Keyword(), Frozen()], ids=["in place", "keywords", "buffers only"])
def test_modules_of_other_habits(model):
    """The images of the caller stay as they are."""
    images = noise()
    before = images.clone()
    decision = opened_object(model)
    logits = decision.logits(images)
    assert torch.equal(images, before) and logits.shape == (2, 3)
    assert gradient(decision.logits, images).abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions(dtype):
    """Images are converted to the precision of the weights, and logits back."""
    net = network().eval()
    decision = opened_object(copy.deepcopy(net).to(dtype))
    logits = decision.logits(noise())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, net(noise()), rtol=0.05, atol=0.05)
    assert gradient(decision.logits, noise()).isfinite().all()


def test_weight_normalised_layers():
    net = network().eval()
    normed = copy.deepcopy(net)
    parametrizations.weight_norm(normed[0])
    assert_same(opened_object(normed).logits, net, noise())


def test_saturated_and_constant_outputs():
    """Logits of a hundred are finite; a constant output beside others is one that nothing changes."""
    large = opened_object(lambda images: 1000 * images.mean((2, 3)))
    assert large.logits(noise() * 0 + 1).tolist() == [[1000] * 3] * 2
    constant = opened_object(lambda images: torch.cat([images.mean((2, 3)), images.new_ones(len(images), 1)], 1))
    assert constant.outputs == tuple("0123")


def test_one_file_in_three_forms():
    net = network().eval()
    torch.export.save(torch.export.export(net, (noise(),)), "net.pt2")
    traced(net).save("net.pt")
    Path("mine.py").write_text("import torch\nnet = torch.jit.load('net.pt')\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for reference in ("net.pt2", "net.pt", "mine.py:net"):
            assert_same(opened(reference, 16, 32).logits, net, noise())


class Quantised(nn.Module):
    """Rounds its activations to 8 bits, without a gradient."""

    def forward(self, images):
        return (images.detach() / 0.01).to(torch.int8).mul(0.01).mean((2, 3))


def test_quantised_models_are_refused():
    with pytest.raises(BlobexError, match="no gradient to the image: compute them without argmax, detach"):
        opened_object(Quantised())


def test_straight_through_quantisation_is_explained():
    def net(images):
        rounded = torch.fake_quantize_per_tensor_affine(images, 0.01, 0, -128, 127)
        return rounded.mean((2, 3))

    decision = opened_object(net)
    torch.testing.assert_close(decision.logits(noise()), noise().mean((2, 3)), rtol=0, atol=0.01)
    assert gradient(decision.logits, noise()).abs().sum() > 0


def test_detectors_are_refused():
    with pytest.raises(BlobexError, match="gives a list: return a tensor, or one called out or logits"):
        opened_object(lambda images: [{"boxes": image, "scores": image} for image in images])
