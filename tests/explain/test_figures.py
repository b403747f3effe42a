"""Grids of captioned images."""

import numpy as np
import pytest
from PIL import ImageFont

from blobex.core.errors import BlobexError
from blobex.explain.figures import FONT_SIZE, FRAMES, PAPER, Cell, grid, wrap


def flat(colour: tuple[int, int, int], height: int = 32, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def test_images_are_enlarged_by_an_integer() -> None:
    colours = [[(200, 0, 0), (0, 200, 0)], [(0, 0, 200), (200, 200, 0)]]
    sheet = grid(["query", "stop"], [[Cell(flat(c), "a caption") for c in row] for row in colours], cell_width=100)
    for colour in [*colours[0], *colours[1]]:
        rows, columns = np.nonzero((sheet == colour).all(2))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (64, 128)  # 64 wide, so twice, to be at least 100
        assert len(rows) == 64 * 128
    places = [np.argwhere((sheet == colour).all(2)).min(0).tolist() for colour in [*colours[0], *colours[1]]]
    assert places[0][0] == places[1][0] < places[2][0] == places[3][0]
    assert places[0][1] == places[2][1] < places[1][1] == places[3][1]


def test_large_images_keep_their_size() -> None:
    sheet = grid([""], [[Cell(flat((9, 99, 9), 256, 512), "")]])
    assert (sheet == (9, 99, 9)).all(2).sum() == 256 * 512


def test_frame_shows_the_tone() -> None:
    for tone in ("plain", "good", "bad"):
        sheet = grid(["t"], [[Cell(flat((0, 0, 0)), "caption", tone)]])
        assert (sheet == FRAMES[tone]).all(2).sum() > 100


def test_captions_are_wrapped() -> None:
    short = grid(["t"], [[Cell(flat((0, 0, 0)), "one line")]])
    long = grid(["t"], [[Cell(flat((0, 0, 0)), "stop 0.98 -> 0.02 flipped " * 4)]])
    assert long.shape[0] > short.shape[0]
    assert long.shape[1] == short.shape[1]
    assert (long[:, -8:] == PAPER).all()  # nothing is written over the margin
    font = ImageFont.load_default(FONT_SIZE)
    lines = wrap("a few words and a_very_long_file_name_that_no_cell_could_ever_hold_whole.png", 120, font)
    assert all(font.getlength(line) <= 120 for line in lines)
    assert lines[-1].endswith(".png") and "..." in lines[-1]
    assert wrap("first\nsecond", 120, font) == ["first", "second"]


def test_output_is_deterministic() -> None:
    cells = [[Cell(flat((1, 2, 3)), "caption")]]
    assert grid(["t"], cells).tobytes() == grid(["t"], cells).tobytes()


@pytest.mark.parametrize(
    ("titles", "rows"),
    [
        ([], []),
        (["a"], []),
        (["a", "b"], [[Cell(flat((0, 0, 0)), "")]]),
        (["a", "b"], [[Cell(flat((0, 0, 0)), ""), Cell(flat((0, 0, 0), 16), "")]]),
        (["a"], [[Cell(flat((0, 0, 0)).astype(float), "")]]),
        (["a"], [[Cell(flat((0, 0, 0))[..., 0], "")]]),
    ],
)
def test_wrong_grids_are_refused(titles: list[str], rows: list[list[Cell]]) -> None:
    with pytest.raises(BlobexError, match="grid"):
        grid(titles, rows)
