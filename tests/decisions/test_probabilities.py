"""Probabilities against the logits that they were computed from."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from worlds.decision_models import CPU, Segmenter, assert_same, network, noise, opened, refused

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError
from blobex.counterfactual.questions import build_questions
from blobex.decisions.load import load
from blobex.decisions.probabilities import log, logit
from blobex.decisions.source import from_callable

SIZE = ImageSize(16, 2)


def loaded(model, **options):
    return load(model, SIZE, CPU, Path(), "rect", **options)


@pytest.mark.parametrize("function", [True, False])
@pytest.mark.parametrize(
    ("squash", "outputs", "kind"),
    [
        (nn.Sigmoid(), 1, "attributes"),
        (nn.Sigmoid(), 4, "attributes"),
        (nn.Softmax(1), 3, "classes"),
        (nn.Sigmoid(), 3, "classes"),
    ],
)
def test_probabilities_are_searched_as_the_logits_before(squash, outputs, kind, function, capsys):
    net = network(outputs).eval()
    whole = nn.Sequential(net, squash)
    decision = loaded((lambda images: whole(images)) if function else whole, kind=kind)
    before = net if isinstance(squash, nn.Sigmoid) else lambda images: net(images).log_softmax(1)
    assert_same(decision.logits, before, noise())
    assert_same(decision.features, before, noise())
    assert capsys.readouterr().err.endswith("gives probabilities: their logits are searched\n")


def test_segmentations_of_probabilities():
    body = Segmenter().body
    decision = loaded(nn.Sequential(body, nn.Softmax(1)))
    assert decision.kind == "segmentation"
    size = {"size": (16, 32), "mode": "bilinear", "align_corners": False}
    assert_same(decision.logits, lambda images: F.interpolate(body(images).log_softmax(1), **size), noise())


def test_a_certain_no_is_no_and_can_flip():
    """At 0.00 the model says no; taken for a logit, it would be a yes of 0.50 that nothing changes."""
    decision = loaded(lambda images: (50 * images.mean((2, 3))[:, :1]).sigmoid())
    dark = torch.full((1, 3, 16, 32), -1.0, requires_grad=True)
    logits = decision.logits(dark)
    questions = build_questions("attributes", decision.outputs, logits.detach(), [0])
    assert questions.before == ("not 0",) and questions.target.scores(logits).item() < 1e-20
    (gradient,) = torch.autograd.grad(questions.target.loss(logits).sum(), dark)
    assert gradient.abs().max() > 0


def test_decisions_that_give_probabilities_are_converted():
    net = network().eval()
    decision = loaded(from_callable(nn.Sequential(net, nn.Softmax(1)), "classes", "abc"))
    assert_same(decision.logits, lambda images: net(images).log_softmax(1), noise())


@pytest.mark.parametrize("column", [True, False])
def test_one_column_of_classes_is_searched_in_logits(column, capsys):
    """A yes of probability p has the logit that the network gave before its sigmoid, and no the logit 0."""
    net = network(1).eval()

    def chance(images):
        return net(images).sigmoid() if column else net(images).sigmoid()[:, 0]

    decision = loaded(chance, kind="classes", outputs=["blocked"])
    assert decision.outputs == ("not blocked", "blocked")
    assert_same(decision.logits, lambda images: F.pad(net(images), (1, 0)), noise())
    probability = decision.logits(noise()).softmax(1)[:, 1]
    torch.testing.assert_close(probability, net(noise()).sigmoid()[:, 0])
    assert capsys.readouterr().err.endswith("gives probabilities: their logits are searched\n")


def test_a_decision_in_doubt_gives_logits_as_it_promises(capsys):
    """It has no card that could say so."""
    decision = loaded(from_callable(lambda images: 0.5 + 0.4 * images.mean((2, 3)), "attributes", "abc"))
    torch.testing.assert_close(decision.logits(noise()), 0.5 + 0.4 * noise().mean((2, 3)))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (network(3).eval(), "attributes"),
        (nn.Sequential(network(3), nn.LogSoftmax(1)).eval(), "classes"),
        (lambda images: 0.2 + 0.0 * images.mean((2, 3)), "attributes"),  # constant
        (lambda images: 0.5 + 0.4 * images.mean((2, 3)), "classes"),  # the highest wins, whatever they are
        (lambda images: images.mean((2, 3)).tanh(), "attributes"),
    ],
)
def test_logits_stay_as_they_are(model, kind, capsys):
    decision = loaded(model, kind=kind)
    assert torch.equal(decision.logits(noise()), model(noise())) and not capsys.readouterr().err


MODULE = "def score(images):\n    return 0.5 + 0.4 * images.mean((2, 3))\n"


def test_what_may_be_either_is_asked(capsys):
    Path("users_either.py").write_text(MODULE)
    card = "model: users_either:score\nkind: attributes\n"
    for extra in ("probabilities", "logits"):
        Path("card.yaml").write_text(card)
        refused("card.yaml", f"may be probabilities or logits: say so in a card, by the line .*`values: {extra}`")
        Path("card.yaml").write_text(card + f"values: {extra}\n")
        decision, images = opened("card.yaml"), noise(2, 32, 32)
        chances = 0.5 + 0.4 * images.mean((2, 3))
        torch.testing.assert_close(decision.logits(images), chances.logit() if extra == "probabilities" else chances)
    Path("card.yaml").write_text(card + "values: percent\n")
    refused("card.yaml", "card.values is 'percent'")
    assert not capsys.readouterr().err


def test_values_out_of_range_are_no_probabilities():
    Path("users_out.py").write_text("def score(images):\n    return images.mean((2, 3))\n")
    Path("card.yaml").write_text("model: users_out:score\nvalues: probabilities\n")
    refused("card.yaml", r"values outside \[0, 1\], no probabilities")


def test_a_model_that_fails_out_of_range_is_judged_by_what_it_gives():
    def careful(images):
        if images.abs().max() > 1:
            raise ValueError("out of range")
        return images.mean((2, 3)).sigmoid()

    images = noise()
    torch.testing.assert_close(loaded(careful, kind="attributes").logits(images), images.mean((2, 3)))


def test_inverses_of_sigmoid_and_softmax():
    values = torch.linspace(-60, 15, 200)
    torch.testing.assert_close(logit(values.double().sigmoid().float()), values, rtol=1e-2, atol=1e-4)
    rows = values.reshape(20, 10)
    torch.testing.assert_close(log(rows.softmax(1)), rows.log_softmax(1))
    assert logit(torch.tensor([0.0, 1.0])).isfinite().all() and log(torch.zeros(1, 2)).isfinite().all()


def test_nothing_is_said_twice(capsys):
    with pytest.raises(BlobexError, match="no gradient"):
        loaded(lambda images: images.mean((2, 3)).sigmoid().round().detach(), kind="attributes")
    assert not capsys.readouterr().err
