"""The witnesses: outputs like those of the networks that they check, one file for both, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.networks.parser import Parser
from blobex.networks.witness import DecisionWitness, ReadingWitness, Witness, load_witness, save_witness
from blobex.perception.objects import read_scenes
from blobex.scenes.labels import SEMANTIC
from blobex.scenes.rules import ACTIONS

RULES = ("plain", "night")
HEIGHT, WIDTH = 16, 32


@pytest.fixture
def witness() -> Witness:
    torch.manual_seed(0)
    decision, reading = DecisionWitness([8, 16], len(RULES), HEIGHT, WIDTH), ReadingWitness(16, HEIGHT, WIDTH)
    return Witness(decision.eval(), reading.eval(), RULES)


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_outputs_of_the_reading_are_those_of_a_parser(witness: Witness) -> None:
    torch.manual_seed(0)
    theirs, ours = Parser([8, 8], HEIGHT, WIDTH).eval()(images()), witness.reading(images())
    assert {name: tensor.shape for name, tensor in vars(ours).items()} == {
        name: tensor.shape for name, tensor in vars(theirs).items()
    }
    assert ((ours.offset >= 0) & (ours.offset <= 1)).all()
    assert ours.heat.sigmoid().mean() < 0.2  # as rare as objects are
    assert witness.reading.pooled_features(images()).shape == (3, 80)


def test_a_scene_can_be_read(witness: Witness) -> None:
    pixels = torch.zeros(2, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    first, second = read_scenes(witness.reading(images(2)), pixels)
    assert set(first.areas) == set(SEMANTIC) and first.size == second.size == (HEIGHT, WIDTH)


def test_decisions_by_rule_and_action(witness: Witness) -> None:
    logits = witness.decision(images())
    assert logits.shape == (3, len(RULES), len(ACTIONS))
    for number, rule in enumerate(RULES):
        assert torch.equal(witness.decide(images(), rule), logits[:, number])
    with pytest.raises(BlobexError, match="does not know the rule 'verge': it knows plain, night"):
        witness.decide(images(), "verge")


def test_no_image_depends_on_its_neighbours(witness: Witness) -> None:
    """No statistics of a batch, not even in training."""
    together = witness.decision.train()(images()), witness.reading.train()(images())
    alone = witness.decision(images()[1:2]), witness.reading(images()[1:2])
    torch.testing.assert_close(alone[0], together[0][1:2])
    for name, tensor in vars(alone[1]).items():
        torch.testing.assert_close(tensor, getattr(together[1], name)[1:2])


def test_the_decision_depends_on_the_place(witness: Witness) -> None:
    """Not on means over the image alone: a mirror image is decided otherwise, as left and right are not the same."""
    assert not torch.allclose(witness.decision(images()), witness.decision(images().flip(-1)))


def test_saved_witnesses_are_the_same_and_frozen(witness: Witness, tmp_path: Path) -> None:
    save_witness(tmp_path, "rect", witness)
    loaded = load_witness(tmp_path)
    assert loaded.rules == RULES
    torch.testing.assert_close(loaded.decide(images(), "night"), witness.decide(images(), "night"))
    torch.testing.assert_close(loaded.reading(images()).semantic, witness.reading(images()).semantic)
    for network in (loaded.decision, loaded.reading):
        assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def test_what_cannot_be_loaded(witness: Witness, tmp_path: Path) -> None:
    with pytest.raises(BlobexError, match=r"no witness weights in .*none: run `dvc repro witness`"):
        load_witness(tmp_path / "none")
    parser = Parser([8], HEIGHT, WIDTH)
    weights.save(tmp_path, "parser", parser.config, parser)
    with pytest.raises(BlobexError, match="holds a parser network where a witness is needed"):
        load_witness(tmp_path)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(BlobexError, match="3 levels but 20x32 is not divisible by 8"):
        DecisionWitness([8, 8, 8], 1, 20, 32)
    with pytest.raises(BlobexError, match="12 channels: make them divisible by 8"):
        DecisionWitness([8, 12], 1, 16, 16)
    with pytest.raises(BlobexError, match="sides 4 divides, not 18x32"):
        ReadingWitness(16, 18, 32)
