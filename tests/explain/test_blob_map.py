"""Maps of blobs: outlines, numbers that do not overlap, and distinct colours."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.explain.blob_map import COLOURS, WIDTH, assign_colours, blob_map, dominant, number_boxes, place_numbers

HEIGHT, BREADTH = 16, 32
GREY = np.full((HEIGHT, BREADTH, 3), 100, np.uint8)


def blobs(count: int, seed: int, height: int = HEIGHT, width: int = BREADTH) -> tuple[np.ndarray, np.ndarray]:
    """Score maps and centres of round blobs, the highest in front, on a background."""
    random = np.random.default_rng(seed)
    centres, radii = random.uniform(0.05, 0.95, (count, 2)), random.uniform(0.05, 0.25, count)
    y, x = np.mgrid[:height, :width]
    scores, left = np.zeros((count + 1, height, width)), np.ones((height, width))
    for blob in reversed(range(count)):
        away = ((x / height - centres[blob, 0] * width / height) ** 2 + (y / height - centres[blob, 1]) ** 2) ** 0.5
        opacity = 1 / (1 + np.exp(40 * (away - radii[blob])))
        scores[blob + 1], left = left * opacity, left * (1 - opacity)
    scores[0] = left
    return scores, centres


def halves() -> tuple[np.ndarray, np.ndarray]:
    """Blob 0 paints the left quarter, blob 2 the right one, blob 1 nothing much, the background the rest."""
    scores = np.zeros((4, HEIGHT, BREADTH))
    scores[0], scores[2] = 0.9, 0.1
    scores[:, :, :8], scores[:, :, 24:] = np.eye(4)[1][:, None, None], np.eye(4)[3][:, None, None]
    return scores, np.array([[0.125, 0.5], [0.5, 0.5], [0.875, 0.5]])


def places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns (2,P) of the pixels of a colour."""
    return np.stack(np.nonzero((picture == colour).all(2)))


def test_blobs_are_outlined_and_filled_where_they_paint() -> None:
    scores, centres = halves()
    sheet = blob_map(GREY, scores, centres, GREY)
    assert dominant(scores).tolist()[0] == [0] * 8 + [-1] * 16 + [2] * 8
    first, second = (places(sheet, COLOURS[index]) for index in (0, 1))
    large = [each[:, each[1] < WIDTH + 12][1] - 12 for each in (first, second)]  # columns of the large picture
    assert large[0].max() < WIDTH / 4 + 12 and large[1].min() > WIDTH * 3 / 4 - 12
    small = [each[:, each[1] >= WIDTH + 12] for each in (first, second)]  # of the flat map
    for part in small:
        assert part.shape[1] > 0.8 * (WIDTH / 8) * (WIDTH / 4)  # all but the number
    assert small[0][1].max() < small[1][1].min()


def test_the_reconstruction_is_shown() -> None:
    other = np.full_like(GREY, (10, 200, 30))
    shown = places(blob_map(GREY, *halves(), other), (10, 200, 30))
    assert shown.shape[1] == WIDTH // 2 * WIDTH // 4
    assert shown[1].min() > WIDTH


def test_legend_lists_labels_and_invisible_blobs() -> None:
    scores, centres = halves()
    plain = blob_map(GREY, scores, centres, GREY)
    labelled = blob_map(GREY, scores, centres, GREY, {0: "a road", 1: "a ghost", 2: "a car"})
    assert labelled.shape[0] > plain.shape[0] and labelled.shape[1] == plain.shape[1]
    seen = np.stack([scores[0] * 0 + 0.4, scores[1], scores[2], scores[3]])
    seen[2] = 0.5  # now blob 1 paints the middle
    assert blob_map(GREY, seen, centres, GREY).shape[0] < plain.shape[0]  # all blobs are visible: no note


def test_other_blobs_fade_and_the_region_is_outlined() -> None:
    scores, centres = halves()
    region = np.zeros((HEIGHT, BREADTH), bool)
    region[:, :4] = True
    sheet = blob_map(GREY, scores, centres, GREY, chosen=[0], region=region)
    assert places(sheet, COLOURS[0]).shape[1] > 1000 and places(sheet, COLOURS[1]).shape[1] == 0
    white = sheet[18 : 18 + WIDTH // 2, 12 : 12 + WIDTH] == 255
    columns = np.nonzero(white.all(2).sum(0) > WIDTH // 4)[0]  # the region's right edge
    assert len(columns) and abs(columns - WIDTH / 8).max() < 6


@pytest.mark.parametrize("count", [3, 16, 40])
def test_numbers_do_not_overlap_and_lie_on_large_blobs(count: int) -> None:
    for seed in range(4):
        scores, centres = blobs(count, seed, 96, 192)
        painted = np.kron(dominant(scores), np.ones((4, 4), int))
        seen = [blob for blob in np.unique(painted).tolist() if blob >= 0]
        boxes = number_boxes(seen, 17)
        marks = place_numbers(painted, centres, seen, boxes)
        assert [mark.number for mark in marks] == seen
        for one, other in itertools.combinations(marks, 2):
            across, down = ((boxes[one.number][i] + boxes[other.number][i]) / 2 - 1 for i in (0, 1))
            assert abs(one.x - other.x) >= across or abs(one.y - other.y) >= down
        for mark in marks:
            if (painted == mark.number).sum() > 20000:
                assert painted[mark.y, mark.x] == mark.number


def test_numbers_lie_at_the_centre_of_large_blobs() -> None:
    scores, centres = halves()
    painted = np.kron(dominant(scores), np.ones((8, 8), int))
    for mark in place_numbers(painted, centres, [0, 2], number_boxes([0, 2], 17)):
        assert abs(mark.x - centres[mark.number, 0] * 256) <= 3 and abs(mark.y - 64) <= 3


def test_neighbours_have_different_colours() -> None:
    for seed in range(5):
        painted = dominant(blobs(16, seed, 96, 192)[0])
        seen = [blob for blob in np.unique(painted).tolist() if blob >= 0]
        colours = assign_colours(painted, seen)
        for first, second in ((painted[1:], painted[:-1]), (painted[:, 1:], painted[:, :-1])):
            for one, other in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
                assert one == other or min(one, other) < 0 or colours[one] != colours[other]


def test_colours_differ_for_every_kind_of_colour_vision() -> None:
    """Simulated as Machado, Oliveira and Fernandes (2009) do, in linear light, at full severity."""
    protan = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    deutan = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    linear = (np.array(COLOURS) / 255) ** 2.2
    for sight in (np.eye(3), np.array(protan), np.array(deutan)):
        seen = 255 * (linear @ sight.T).clip(0, 1) ** (1 / 2.2)
        for one, other in itertools.combinations(seen, 2):
            assert np.abs(one - other).max() > 25


def test_output_is_deterministic_for_any_shape() -> None:
    square = np.asarray(Image.fromarray(GREY).resize((20, 20)))
    scores, centres = blobs(5, 0, 20, 20)
    sheet = blob_map(square, scores, centres, square)
    assert sheet.dtype == np.uint8 and sheet.shape[0] > WIDTH
    assert sheet.tobytes() == blob_map(square, scores, centres, square).tobytes()
    nothing = np.zeros((3, 20, 20))
    nothing[0] = 1  # the background alone
    assert blob_map(square, nothing, centres[:2], square).shape[2] == 3


def test_arrays_that_do_not_fit_are_refused() -> None:
    scores, centres = halves()
    region = np.zeros((HEIGHT, BREADTH), bool)
    for wrong in (
        (GREY.astype(float), scores, centres, GREY),
        (GREY, scores[:, 1:], centres, GREY),
        (GREY, scores, centres, GREY[1:]),
        (GREY, scores, centres[1:], GREY),
        (GREY, scores, centres, GREY, None, None, region[1:]),
        (GREY, scores, centres, GREY, None, None, region.astype(int)),
    ):
        with pytest.raises(BlobexError):
            blob_map(*wrong)
