"""Image files, cropping and resizing, and conversion between bytes and [-1, 1]; no other module converts images."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from blobex.core.errors import BlobexError, brief
from blobex.core.files import whole_file

MAX_PIXELS = 100_000_000
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Pillow cannot read HEIC: such files are listed all the same, so that they are reported as skipped.
ENDINGS = {
    *(".apng", ".avif", ".avifs", ".bmp", ".gif", ".heic", ".heif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe"),
    *(".jpeg", ".jpf", ".jpg", ".jpx", ".pbm", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
# Formats that are decoded, whatever the ending: Pillow hands others, such as PostScript, to external programs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MACOS_FOLDER = "__MACOSX"  # metadata in archives from macOS


def load_image(path: str | Path) -> np.ndarray:
    """Load an image file as (H,W,3) uint8: rotated by its EXIF tag, grey as RGB, transparency over black.

    Of several frames the first is loaded. Raises BlobexError if the file is missing, not an image, damaged, or larger
    than 100 megapixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # broken metadata does not matter, and the size is checked anyway
        return decode_image(Path(path))


def decode_image(path: Path) -> np.ndarray:
    """Load an image file as `load_image` does, without silencing Pillow's warnings: threads cannot do that."""
    with opened_image(path) as image:
        return _rgb(ImageOps.exif_transpose(image), path)


def decode_jpeg(content: bytes) -> np.ndarray:
    """Decode the bytes of an RGB image that `scenes.write` encoded to (H,W,3) uint8."""
    return np.array(Image.open(io.BytesIO(content), formats=("JPEG",)).convert("RGB"))


@contextmanager
def opened_image(path: Path, meaning: str = "image") -> Iterator[Image.Image]:
    """Open an image file with Pillow, not yet decoded; errors, also those within the block, become BlobexError.

    `meaning` names the file in the error if it is missing.
    """
    try:
        if not path.is_file():  # opening a pipe would block
            raise BlobexError(f"there is no {meaning} {path}: check the path")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BlobexError(f"{path} has {image.width} x {image.height} pixels: make it 100 megapixels or less")
            yield image
    except Image.DecompressionBombError as error:
        raise BlobexError(f"{path} has too many pixels: make it 100 megapixels or less") from error
    except Image.UnidentifiedImageError as error:
        raise BlobexError(f"{path} is not an image: give a PNG or JPEG file") from error
    except BlobexError:
        raise
    except Exception as error:  # Pillow raises nearly any type for damaged files
        if isinstance(error, OSError) and error.strerror:
            raise BlobexError(f"{path} cannot be read ({error.strerror}): check its path and permissions") from error
        raise BlobexError(f"{path} cannot be decoded ({brief(error)}): it is damaged, replace it") from error


def _rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits a pixel
        grey = np.asarray(image).astype(np.int64) >> 8
        return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise BlobexError(f"{path} holds floating-point pixels, whose range is unknown: convert it to 8 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return np.array(image.convert("RGB"))


def crop_box(rows: int, columns: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Return the largest centred box (left, top, right, bottom) of aspect ratio width : height in an image.

    >>> crop_box(rows=100, columns=300, height=64, width=128)
    (50, 0, 250, 100)
    """
    if columns * height > rows * width:
        cropped = max(1, round(rows * width / height))
        left = (columns - cropped) // 2
        return left, 0, left + cropped, rows
    cropped = max(1, round(columns * height / width))
    top = (rows - cropped) // 2
    return 0, top, columns, top + cropped


def fit(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crop (H,W,3) uint8 centrally to the aspect ratio, then resize to (height,width,3), bicubic and antialiased.

    >>> fit(np.zeros((100, 300, 3), np.uint8), 64, 128).shape
    (64, 128, 3)
    """
    left, top, right, bottom = crop_box(image.shape[0], image.shape[1], height, width)
    cropped = image[top:bottom, left:right]
    if cropped.shape[:2] == (height, width):
        return np.ascontiguousarray(cropped)
    return np.asarray(Image.fromarray(np.ascontiguousarray(cropped)).resize((width, height), Image.Resampling.BICUBIC))


def fit_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crop and resize a label map (H,W) of any integer type as `fit` does an image, but to the nearest pixel.

    >>> fit_mask(np.eye(4, dtype=int), 2, 2).tolist()
    [[1, 0], [0, 1]]
    """
    left, top, right, bottom = crop_box(mask.shape[0], mask.shape[1], height, width)
    rows = top + (2 * np.arange(height) + 1) * (bottom - top) // (2 * height)
    columns = left + (2 * np.arange(width) + 1) * (right - left) // (2 * width)
    return mask[rows[:, None], columns[None, :]]


def to_float(image: torch.Tensor) -> torch.Tensor:
    """Convert uint8 in 0..255 to float32 in [-1, 1], any shape.

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8))
    tensor([-1.,  1.])
    """
    return image.to(torch.float32) / 127.5 - 1


def to_uint8(image: torch.Tensor) -> torch.Tensor:
    """Convert floats in [-1, 1] to the nearest uint8 in 0..255, any shape; other values are clamped.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 2.0])).tolist()
    [0, 128, 255]
    """
    return ((image.to(torch.float32) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Copy an (H,W,3) uint8 array to a (3,H,W) uint8 tensor."""
    return torch.tensor(image).permute(2, 0, 1).contiguous()


def to_array(image: torch.Tensor) -> np.ndarray:
    """Convert a (3,H,W) float tensor in [-1, 1] to an (H,W,3) uint8 array."""
    return to_uint8(image.detach().cpu()).permute(1, 2, 0).contiguous().numpy()


def list_images(folder: str | Path) -> list[Path]:
    """List all files below a folder with the ending of an image, sorted; they need not be readable.

    Names that begin with a dot and `__MACOSX` are left out. Links to folders are followed, each folder once. Raises
    BlobexError if there are no such files, or a folder cannot be opened.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BlobexError(f"there is no folder {folder}: check the path")
    paths: list[Path] = []
    visited: set[Path] = set()
    for parent, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        real = Path(parent).resolve()
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".") and name != MACOS_FOLDER)
        visible = (Path(parent, name) for name in names if not name.startswith("."))
        paths += [path for path in visible if path.suffix.lower() in ENDINGS]
    if not paths:
        raise BlobexError(f"no images in {folder}: it should hold files that end in {', '.join(sorted(ENDINGS))}")
    return sorted(paths)


def _refuse(error: OSError) -> None:
    raise BlobexError(f"{error.filename} cannot be opened ({error.strerror}): make it readable or move it") from error


def name_of(path: str | Path) -> str:
    """Return a path as printable text: control characters and undecodable bytes become U+FFFD."""
    return CONTROLS.sub("\ufffd", os.fsencode(path).decode("utf-8", "replace"))


def write_png(path: str | Path, image: np.ndarray, colours: int | None = None) -> None:
    """Write (H,W), (H,W,3) or (H,W,4) uint8 atomically; `colours`, 2 to 256, reduces (H,W,3) to a palette."""
    converted = Image.fromarray(image)
    if colours is not None:
        converted = converted.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    with whole_file(Path(path)) as temporary:
        converted.save(temporary, format="PNG")


def write_gif(path: str | Path, frames: Sequence[np.ndarray], milliseconds: int = 120) -> None:
    """Write frames, uint8 (H,W,3), as an endless animation forth and back, atomically."""
    first, *others = (Image.fromarray(frame) for frame in [*frames, *reversed(frames[1:-1])])
    with whole_file(Path(path)) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)


VAL_EVERY = 10  # in a folder without train and val, every tenth image is for validation


def folder_images(root: str | Path, split: str) -> list[Path]:
    """List the images of split "train" or "val", sorted, readable or not. Raises BlobexError if there are none."""
    root = Path(root)
    if split not in ("train", "val"):
        raise BlobexError(f"a folder of images has no split {split!r}: choose train or val")
    if (root / "train").is_dir() and (root / "val").is_dir():
        return list_images(root / split)
    paths = list_images(root)
    if len(paths) < VAL_EVERY:
        raise BlobexError(f"{root} holds {len(paths)} images: give at least {VAL_EVERY}, or folders train and val")
    return [path for number, path in enumerate(paths, 1) if (number % VAL_EVERY == 0) == (split == "val")]
