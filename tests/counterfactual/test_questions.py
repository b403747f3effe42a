"""Questions for each kind of model, and errors for questions without an answer."""

import pytest
import torch

from blobex.core.errors import BlobexError
from blobex.counterfactual.questions import Box, Questions, build_questions
from blobex.counterfactual.ranges import Range
from blobex.counterfactual.target import AttributeTarget, ClassTarget, RangeTarget, RegionTarget
from blobex.decisions.decision import Kind

NAMES = ("road", "car", "sky")
OUTPUTS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -4.0]])
MAP = torch.tensor(  # class maps of two images of 2x4
    [[[2, 2, 2, 2], [0, 0, 1, 0]], [[2, 2, 1, 1], [0, 0, 1, 1]]]
)
MAPS = torch.nn.functional.one_hot(MAP, 3).permute(0, 3, 1, 2).float()


def regions(columns: tuple[int, ...] = (1,), box: Box | None = None, replaced: int | None = None) -> Questions:
    return build_questions("segmentation", NAMES, MAPS, columns, box, replaced)


def test_attributes_are_inverted() -> None:
    questions = build_questions("attributes", NAMES, OUTPUTS, (2, 0))
    assert questions.image_index.tolist() == [0, 0, 1, 1]
    assert isinstance(questions.target, AttributeTarget)
    assert questions.target.column.tolist() == [2, 0, 2, 0]
    assert questions.target.wanted.tolist() == [False, False, True, True]
    assert questions.outputs == ("sky", "road", "sky", "road")
    assert questions.before == ("sky", "road", "not sky", "not road")
    assert questions.after == ("not sky", "not road", "sky", "road")
    assert not (questions.target.margin(OUTPUTS[questions.image_index]) > 0).any()


def test_numbers_reach_a_range() -> None:
    questions = build_questions("regression", NAMES, OUTPUTS, (2, 0), wanted=Range(0.5, float("inf")))
    assert isinstance(questions.target, RangeTarget)
    assert questions.target.column.tolist() == [2, 0, 2, 0]
    assert questions.target.gap.tolist() == [1, 1, 4.5, 3.5]  # 1 inside the range
    assert questions.before == ("sky >= 0.5", "road >= 0.5", "sky -4", "road -3")  # the first two are already so
    assert questions.after == ("sky >= 0.5", "road >= 0.5") * 2
    assert (questions.target.margin(OUTPUTS[questions.image_index]) > 0).tolist() == [False, True, False, False]


def test_only_numbers_have_a_range() -> None:
    with pytest.raises(BlobexError, match="say which to reach with at_least, at_most or between"):
        build_questions("regression", NAMES, OUTPUTS, (2,))
    with pytest.raises(BlobexError, match="only a regression reaches a range of numbers, and this model gives classes"):
        build_questions("classes", NAMES, OUTPUTS, (2,), wanted=Range(0, 1))
    with pytest.raises(BlobexError, match="no output to change: name one of road"):
        build_questions("regression", NAMES, OUTPUTS, (), wanted=Range(0, 1))


def test_questions_are_indexed() -> None:
    questions = build_questions("attributes", NAMES, OUTPUTS, (2, 0))
    chosen = questions[torch.tensor([3, 0])]
    assert len(questions) == 4 and len(chosen) == 2
    assert chosen.image_index.tolist() == [1, 0] and chosen.target.column.tolist() == [0, 2]
    assert (chosen.outputs, chosen.before, chosen.after) == (("road", "sky"), ("not road", "sky"), ("road", "not sky"))


def test_named_classes_are_the_targets() -> None:
    questions = build_questions("classes", NAMES, OUTPUTS, (1,))
    assert isinstance(questions.target, ClassTarget)
    assert questions.target.column.tolist() == [1, 1]
    assert questions.before == ("road", "car")  # the second image is a car already
    assert questions.after == questions.outputs == ("car", "car")


def test_without_a_class_the_runner_up_is_the_target() -> None:
    questions = build_questions("classes", NAMES, OUTPUTS, ())
    assert questions.target.column.tolist() == [2, 0]
    assert questions.before == ("road", "car") and questions.after == questions.outputs == ("sky", "road")
    assert (questions.target.margin(OUTPUTS) < 0).all()


def test_the_most_common_class_is_replaced() -> None:
    questions = regions()
    assert isinstance(questions.target, RegionTarget)
    assert questions.before == ("sky", "car") and questions.after == questions.outputs == ("car", "car")
    assert torch.equal(questions.target.region, torch.tensor([2, 1])[:, None, None] == MAP)
    assert questions.target.labels[0].tolist() == [[1, 1, 1, 1], [0, 0, 1, 0]]


def test_the_rest_of_the_label_map_stays() -> None:
    questions = regions((1, 2), replaced=0)
    assert questions.image_index.tolist() == [0, 0, 1, 1] and questions.before == ("road",) * 4
    for problem, (index, column) in enumerate(zip([0, 0, 1, 1], [1, 2, 1, 2], strict=True)):
        expected = torch.where(MAP[index] == 0, column, MAP[index])
        assert torch.equal(questions.target[torch.tensor([problem])].labels[0], expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((0, 0, 1, 1), [[1, 1, 1, 1], [1, 1, 1, 1]]),
        ((0.5, 0, 1, 1), [[0, 0, 1, 1], [0, 0, 1, 1]]),
        ((0.25, 0.5, 0.75, 1), [[0, 0, 0, 0], [0, 1, 1, 0]]),
        ((0.3, 0, 0.4, 0.5), [[0, 1, 0, 0], [0, 0, 0, 0]]),  # contains one pixel centre
    ],
)
def test_a_region_contains_pixels_by_their_centres(box: Box, inside: list[list[int]]) -> None:
    same = torch.zeros(1, 3, 2, 4)
    same[:, 0] = 1.0
    questions = build_questions("segmentation", NAMES, same, (1,), box)
    assert questions.target.region[0].long().tolist() == inside  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0.5, 0, 0.5, 1), "shares of the image from 0 to 1"),
        ((-0.1, 0, 1, 1), "shares of the image from 0 to 1"),
        ((0, 0, 1, 1.01), "shares of the image from 0 to 1"),
        ((0.9, 0, 0.1, 1), "shares of the image from 0 to 1"),
        ((0, 0, float("nan"), 1), "shares of the image from 0 to 1"),
        ((0.4, 0, 0.6, 0.1), "smaller than a pixel"),
    ],
)
def test_invalid_regions_are_refused(box: Box, words: str) -> None:
    with pytest.raises(BlobexError, match=words):
        regions(box=box)


def test_a_class_outside_the_region_cannot_be_replaced() -> None:
    with pytest.raises(BlobexError, match="image 0 has no car in the region: choose another region"):
        regions((2,), (0, 0, 0.5, 1), replaced=1)
    with pytest.raises(BlobexError, match="image 1 has no road in the region"):
        regions((1,), (0.7, 0, 1, 1), replaced=0)


@pytest.mark.parametrize(
    ("kind", "outputs", "columns", "box", "words"),
    [
        ("attributes", MAPS, (0,), None, r"gives \(3, 2, 4\) per image: that is not attributes"),
        ("segmentation", OUTPUTS, (0,), None, r"gives \(3,\) per image: that is not segmentation"),
        ("classes", OUTPUTS[:, :2], (0,), None, r"gives \(2,\) per image: that is not classes"),
        (
            "attributes",
            OUTPUTS,
            (0,),
            (0, 0, 1, 1),
            "segmentation models, and this one gives attributes",
        ),
        ("classes", OUTPUTS, (0,), (0, 0, 1, 1), "a region is for segmentation models, and this one gives classes"),
        ("attributes", OUTPUTS, (), None, "no output to change: name one of road, car, sky"),
        ("segmentation", MAPS, (), None, "no output to change: name one of road, car, sky"),
    ],
)
def test_questions_of_another_kind_are_refused(
    kind: str, outputs: torch.Tensor, columns: tuple[int, ...], box: Box | None, words: str
) -> None:
    with pytest.raises(BlobexError, match=words) as caught:
        build_questions(kind, NAMES, outputs, columns, box)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_single_class_cannot_change() -> None:
    with pytest.raises(BlobexError, match="one class"):
        build_questions("classes", ("road",), OUTPUTS[:, :1], ())


@pytest.mark.parametrize(
    ("kind", "columns", "outputs", "after"),
    [
        ("attributes", (2,), ("sky", "sky"), ("undecided", "sky")),
        ("classes", (), ("undecided", "road"), ("undecided", "road")),
        ("classes", (1,), ("car", "car"), ("car", "car")),  # what was asked for is known
    ],
)
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_no_decision_is_invented(
    kind: Kind, columns: tuple[int, ...], outputs: tuple[str, ...], after: tuple[str, ...], number: float
) -> None:
    damaged = OUTPUTS.clone()
    damaged[0, 1] = number
    questions = build_questions(kind, NAMES, damaged, columns)
    sound = build_questions(kind, NAMES, OUTPUTS[1:], columns)
    assert questions.outputs == outputs and questions.after == after
    assert questions.before == ("undecided", *sound.before)
    assert questions.target[torch.tensor([1])].column.tolist() == sound.target.column.tolist()
    assert questions.settled[0] and questions.settled[1] == sound.settled[0]


def test_no_label_map_is_invented() -> None:
    damaged = MAPS.clone()
    damaged[1, :, 0, 0] = torch.nan
    questions = build_questions("segmentation", NAMES, damaged, (1,), None, 2)
    assert questions.before == ("sky", "undecided") and questions.after == ("car", "car")
    assert questions.settled.tolist() == [False, True]


def test_what_is_decided_as_asked_is_settled() -> None:
    questions = build_questions("classes", NAMES, OUTPUTS, (0, 1))
    assert questions.before == ("road", "road", "car", "car")
    assert questions.settled.tolist() == [True, False, False, True]
    assert not build_questions("attributes", NAMES, OUTPUTS, (0, 1, 2)).settled.any()
