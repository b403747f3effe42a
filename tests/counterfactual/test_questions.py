"""Questions about pictures: what each kind of model is asked, and one sentence for what cannot be asked."""

import pytest
import torch

from blobex.core.errors import BlobexError
from blobex.counterfactual.questions import Box, Questions, build_questions
from blobex.counterfactual.target import AttributeTarget, ClassTarget, RegionTarget

NAMES = ("road", "car", "sky")
SAID = torch.tensor([[2.0, -1.0, 0.5], [-3.0, -2.0, -4.0]])
MAP = torch.tensor(  # two pictures of 2x4, by class
    [[[2, 2, 2, 2], [0, 0, 1, 0]], [[2, 2, 1, 1], [0, 0, 1, 1]]]
)
MAPS = torch.nn.functional.one_hot(MAP, 3).permute(0, 3, 1, 2).float()


def regions(columns: tuple[int, ...] = (1,), box: Box | None = None, replaced: int | None = None) -> Questions:
    return build_questions("segmentation", NAMES, MAPS, columns, box, replaced)


def test_attributes_become_what_they_are_not() -> None:
    questions = build_questions("attributes", NAMES, SAID, (2, 0))
    assert questions.image_index.tolist() == [0, 0, 1, 1]
    assert isinstance(questions.target, AttributeTarget)
    assert questions.target.column.tolist() == [2, 0, 2, 0]
    assert questions.target.wanted.tolist() == [False, False, True, True]
    assert questions.outputs == ("sky", "road", "sky", "road")
    assert questions.before == ("sky", "road", "not sky", "not road")
    assert questions.after == ("not sky", "not road", "sky", "road")
    assert not (questions.target.margin(SAID[questions.image_index]) > 0).any()


def test_questions_by_number_are_those_of_all() -> None:
    questions = build_questions("attributes", NAMES, SAID, (2, 0))
    some = questions[torch.tensor([3, 0])]
    assert len(questions) == 4 and len(some) == 2
    assert some.image_index.tolist() == [1, 0] and some.target.column.tolist() == [0, 2]
    assert (some.outputs, some.before, some.after) == (("road", "sky"), ("not road", "sky"), ("road", "not sky"))


def test_named_classes_should_win() -> None:
    questions = build_questions("classes", NAMES, SAID, (1,))
    assert isinstance(questions.target, ClassTarget)
    assert questions.target.column.tolist() == [1, 1]
    assert questions.before == ("road", "car")  # the second picture is a car already, and is told so
    assert questions.after == questions.outputs == ("car", "car")


def test_without_a_name_the_runner_up_should_win() -> None:
    questions = build_questions("classes", NAMES, SAID, ())
    assert questions.target.column.tolist() == [2, 0]
    assert questions.before == ("road", "car") and questions.after == questions.outputs == ("sky", "road")
    assert (questions.target.margin(SAID) < 0).all()


def test_the_commonest_class_of_the_picture_is_replaced() -> None:
    questions = regions()
    assert isinstance(questions.target, RegionTarget)
    assert questions.before == ("sky", "car") and questions.after == questions.outputs == ("car", "car")
    assert torch.equal(questions.target.region, torch.tensor([2, 1])[:, None, None] == MAP)
    assert questions.target.labels[0].tolist() == [[1, 1, 1, 1], [0, 0, 1, 0]]


def test_the_rest_of_the_map_stays() -> None:
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
        ((0.3, 0, 0.4, 0.5), [[0, 1, 0, 0], [0, 0, 0, 0]]),  # holds the centre of one pixel
    ],
)
def test_a_region_holds_the_pixels_whose_centre_it_holds(box: Box, inside: list[list[int]]) -> None:
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
def test_regions_that_are_none(box: Box, words: str) -> None:
    with pytest.raises(BlobexError, match=words):
        regions(box=box)


def test_nothing_to_replace() -> None:
    with pytest.raises(BlobexError, match="image 0 has no car in the region: choose another region"):
        regions((2,), (0, 0, 0.5, 1), replaced=1)
    with pytest.raises(BlobexError, match="image 1 has no road in the region"):
        regions((2,), (0, 0, 1, 0.5), replaced=0) if (MAP[0, 0] == 0).any() else regions((1,), (0.7, 0, 1, 1), 0)


@pytest.mark.parametrize(
    ("kind", "said", "columns", "box", "words"),
    [
        ("attributes", MAPS, (0,), None, r"gives \(3, 2, 4\) per image: that is not attributes"),
        ("segmentation", SAID, (0,), None, r"gives \(3,\) per image: that is not segmentation"),
        ("classes", SAID[:, :2], (0,), None, r"gives \(2,\) per image: that is not classes"),
        ("attributes", SAID, (0,), (0, 0, 1, 1), "a region is for segmentation models, and this one gives attributes"),
        ("classes", SAID, (0,), (0, 0, 1, 1), "a region is for segmentation models, and this one gives classes"),
        ("attributes", SAID, (), None, "no output to change: name one of road, car, sky"),
        ("segmentation", MAPS, (), None, "no output to change: name one of road, car, sky"),
    ],
)
def test_questions_of_another_kind(
    kind: str, said: torch.Tensor, columns: tuple[int, ...], box: Box | None, words: str
) -> None:
    with pytest.raises(BlobexError, match=words) as caught:
        build_questions(kind, NAMES, said, columns, box)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_one_class_cannot_be_decided_otherwise() -> None:
    with pytest.raises(BlobexError, match="one class"):
        build_questions("classes", ("road",), SAID[:, :1], ())
