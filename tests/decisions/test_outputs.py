"""What models return, in every form, against the logits inside."""

import collections
from types import SimpleNamespace

import pytest
import torch
from worlds.decision_models import assert_same, noise, opened_object

from blobex.core.errors import BlobexError
from blobex.decisions.outputs import arranged, choice, output_tensor

LOGITS, OTHER = torch.randn(2, 3), torch.randn(2, 7)
Pair = collections.namedtuple("Pair", "first second")
Named = collections.namedtuple("Named", "loss logits")
FIRST = "of the 2 values that net gives, the first is explained"


class Output(collections.OrderedDict):
    """Items that are attributes too, as transformers' outputs are."""

    def __getattr__(self, key):
        try:
            return self[key]
        except KeyError:
            raise AttributeError(key) from None


@pytest.mark.parametrize(
    ("output", "note"),
    [
        (LOGITS, ""),
        ({"out": LOGITS, "aux": OTHER}, ""),
        ({"loss": OTHER, "logits": LOGITS}, ""),
        (Output(loss=OTHER, logits=LOGITS), ""),
        (Named(None, LOGITS), ""),
        (SimpleNamespace(logits=LOGITS, hidden_states=(OTHER,)), ""),
        ((LOGITS, OTHER), FIRST),
        ([LOGITS, OTHER], FIRST),
        (Pair(LOGITS, OTHER), FIRST),
        ([LOGITS], "of the 1 values that net gives, the first is explained"),
        ((None, LOGITS), "of the 2 values that net gives, the first tensor, number 1, is explained"),
        ({"scores": LOGITS}, "of the outputs of net, scores is explained: it is the only tensor"),
        ({"scores": LOGITS, "names": ["a"]}, "of the outputs of net, scores is explained: it is the only tensor"),
    ],
)
def test_tensor_of_an_output(output, note):
    assert output_tensor(output, "net") is LOGITS
    assert choice(output, "net") == note


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (None, "gives a NoneType: return a tensor, or one called out or logits"),
        ([], "gives a list"),
        ([{"boxes": OTHER, "labels": OTHER}], "gives a list"),
        ({"boxes": OTHER, "labels": OTHER}, "gives a dict of boxes, labels: return"),
        ({}, "gives a dict of no items"),
        (3.0, "gives a float"),
    ],
)
def test_output_without_a_choice_is_refused(output, words):
    with pytest.raises(BlobexError, match=words):
        output_tensor(output, "net")


def test_one_output_of_classes_is_no_or_yes():
    """The softmax of the two logits is the sigmoid of the one, and its complement."""
    logit = torch.tensor([-2.0, 0.5])
    both = torch.stack([1 - logit.sigmoid(), logit.sigmoid()], 1)
    for output in (logit, logit[:, None]):
        torch.testing.assert_close(arranged(output, "classes", 2).softmax(1), both)
    maps = torch.randn(2, 4, 5)
    for output in (maps, maps[:, None]):
        torch.testing.assert_close(arranged(output, "segmentation", 2).softmax(1)[:, 1], maps.sigmoid())


@pytest.mark.parametrize("kind", ["attributes", "classes", "segmentation"])
def test_squeezed_batches_are_as_whole_ones(kind):
    """A model that squeezes its output gives a batch of one another shape."""
    logits = torch.randn(3, 1, 4, 4) if kind == "segmentation" else torch.randn(3, 1)
    whole = arranged(logits.squeeze(), kind, 3)
    one_by_one = [arranged(row.squeeze(), kind, 1) for row in logits.split(1)]
    assert torch.equal(torch.cat(one_by_one), whole) and whole.ndim == logits.ndim


def test_several_outputs_are_unchanged():
    for kind, shape in [
        ("classes", (2, 3)),
        ("attributes", (2, 1)),
        ("segmentation", (2, 3, 4, 4)),
        ("classes", (2,) * 3),
    ]:
        logits = torch.randn(shape)
        assert arranged(logits, kind, 2) is logits


@pytest.mark.parametrize(
    ("options", "kind", "names"),
    [
        ({}, "attributes", ("0",)),
        ({"outputs": ["stop"]}, "attributes", ("stop",)),
        ({"outputs": ["free", "blocked"]}, "classes", ("free", "blocked")),
        ({"kind": "classes"}, "classes", ("no", "yes")),
        ({"kind": "classes", "outputs": ["stop"]}, "classes", ("not stop", "stop")),
        ({"kind": "classes", "outputs": ["free", "blocked"]}, "classes", ("free", "blocked")),
    ],
)
@pytest.mark.parametrize("column", [True, False])
def test_models_of_one_output(options, kind, names, column):
    """(N,) and (N,1) are the same model."""

    def net(images):
        return images.mean((2, 3))[:, :1] if column else images.mean((2, 3))[:, 0]

    decision = opened_object(net, **options)
    assert (decision.kind, decision.outputs) == (kind, names)
    assert_same(lambda x: decision.logits(x)[:, -1], lambda x: x.mean((2, 3))[:, 0], noise())


@pytest.mark.parametrize(("outputs", "names"), [(None, ("no", "yes")), (["drivable"], ("not drivable", "drivable"))])
@pytest.mark.parametrize("channel", [True, False])
def test_segmentation_of_one_channel_is_a_mask(outputs, names, channel):
    def net(images):
        return images[:, :1] if channel else images[:, 0]

    decision = opened_object(net, kind="segmentation", outputs=outputs)
    assert decision.outputs == names
    assert_same(lambda x: decision.logits(x)[:, 1], lambda x: x[:, 0], noise())
    assert torch.equal(decision.logits(noise()).argmax(1) == 1, noise()[:, 0] > 0)


def test_note_on_the_choice():
    def net(images):
        return images.mean((2, 3)), images.flatten(1)

    decision = opened_object(net)
    (note,) = decision.notes
    assert note.startswith("of the 2 values that") and note.endswith("the first is explained")
    assert_same(decision.logits, lambda x: x.mean((2, 3)), noise())
    assert opened_object(lambda x: x.mean((2, 3))).notes == ()
