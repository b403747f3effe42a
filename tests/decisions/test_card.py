"""Cards as people write them: names, colours and channels."""

from pathlib import Path

import pytest
import torch
from worlds.decision_models import noise, opened, refused

from blobex.decisions.card import read_card
from blobex.decisions.decision import Input, prepare

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NET = """
def net(images):
    return images.mean((2, 3))

def two(images):
    return images.mean((2, 3))[:, :2]
"""


def card(text):
    Path("card.yaml").write_text(f"model: users:net\n{text}\n")
    return read_card(Path("card.yaml"))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[day, night]", ["day", "night"]),
        ("{0: free, 1: blocked}", ["free", "blocked"]),
        ("{'1': blocked, '0': free}", ["free", "blocked"]),
        ("{free: 0, blocked: 1}", ["free", "blocked"]),
        ("[no, yes]", ["no", "yes"]),
        ("{0: no, 1: yes}", ["no", "yes"]),
        ("[off, on, 1.50, 007, 2024-05-01]", ["off", "on", "1.50", "007", "2024-05-01"]),
    ],
)
def test_names_of_outputs_are_as_written(text, names):
    assert card(f"outputs: {text}").outputs == names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("outputs: {1: free, 2: blocked}", r"write `outputs: \[free, blocked\]`"),
        ("outputs: {free: yes, blocked: no}", r"write `outputs: \[free, blocked\]`"),
        ("outputs: free, blocked", r"write `outputs: \[free, blocked\]`"),
        ("outputs: [a, [b]]", r"card\.outputs\[1\] is \['b'\]"),
        ("outputs: [a, null]", r"card\.outputs\[1\] is None"),
        ("outputs: 3", r"card\.outputs is 3"),
        (f"mean: {MEAN}", r"give std in the same range, `std: \[1, 1, 1\]` if"),
        (f"mean: {MEAN}\nstd: [0.229, 0.224, 0.225]", r"write `mean: \[0\.485, 0\.456, 0\.406\]`"),
        (f"mean: [0.485, 0.456, 0.406]\nstd: {STD}", r"write `std: \[0\.229, 0\.224, 0\.225\]`"),
        ("channels: gbr", "card.channels is 'gbr': choose one of rgb, bgr"),
    ],
)
def test_refusals_give_the_line_that_works(text, words):
    Path("card.yaml").write_text(f"model: users:net\n{text}\n")
    refused("card.yaml", words)


def test_colours_from_0_to_255():
    """By hand: a model of 255 c, minus the mean, over std."""
    images = noise()
    colours = (images + 1) / 2 * 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    ours = prepare(images, card(f"mean: {MEAN}\nstd: {STD}").input(Input()))
    torch.testing.assert_close(ours, (colours - mean) / std)
    undivided = prepare(images, card(f"mean: {MEAN}\nstd: [1, 1, 1]").input(Input()))
    torch.testing.assert_close(undivided, colours - mean, rtol=1e-5, atol=1e-3)
    zero = prepare(images, card("mean: [0, 0, 0]\nstd: [255, 255, 255]").input(Input()))
    torch.testing.assert_close(zero, colours / 255)


def test_blue_first():
    """Mean and std are in the order of the channels; those of the reference are turned with them."""
    images = noise()
    colours = ((images + 1) / 2)[:, [2, 1, 0]] * 255
    mean = torch.tensor([103.939, 116.779, 123.68])[:, None, None]
    ours = prepare(images, card("channels: bgr\nmean: [103.939, 116.779, 123.68]\nstd: [1, 1, 1]").input(Input()))
    torch.testing.assert_close(ours, colours - mean, rtol=1e-5, atol=1e-3)
    default = Input(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    turned = card("channels: bgr").input(default)
    assert (turned.mean, turned.std) == ((0.3, 0.2, 0.1), (0.6, 0.5, 0.4))
    torch.testing.assert_close(prepare(images, turned), prepare(images, default)[:, [2, 1, 0]])


def test_card_of_two_names_for_one_output(tmp_path):
    Path("users.py").write_text(NET)
    Path("card.yaml").write_text("model: users:two\noutputs: {0: no, 1: yes}\n")
    assert opened("card.yaml").outputs == ("no", "yes")
