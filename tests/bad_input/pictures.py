"""Photos, folders of photos and masks of regions."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from bad_input.world import Case, Harm, cut, folder_at, gone, link_at, pipe_at, put, setting, whole

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, more: bytes = b"") -> bytes:
    """A PNG that says it has that many pixels of one bit, whatever it holds."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@cache
def bomb() -> bytes:
    """900 megapixels in a hundred kilobytes: all rows are there."""
    return png(30_000, 30_000, zlib.compress(bytes(3751 * 30_000)))


def wide_jpeg(rows: int, columns: int) -> bytes:
    """A JPEG whose frame header says that it has that many rows and columns."""
    content = encoded(NOISE, "JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", rows, columns) + content[place + 4 :]


def text_bomb() -> bytes:
    """Compressed words of 64 megabytes."""
    words = b"Comment\0\0" + zlib.compress(bytes(2**26))
    return png(8, 8, zlib.compress(bytes(16)), chunk(b"zTXt", words))


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 32\n%%EndComments\n(executed) (w) file closefile\nshowpage\n"
)


def photo(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"photo: {name}", harm, "blobex blobs photo.png --out out", words or ("photo.png",))


def folder(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"photos: {name}", harm, "blobex blobs photos --out out", words)


def mask(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"region: {name}", harm, "blobex blobs photo.png --out out --region mask.png", words)


def named(place: str) -> Harm:
    return lambda folder: (folder / "photo.png").rename(folder / place)


def emptied(folder: Path) -> None:
    gone("photos")(folder)
    (folder / "photos").mkdir()


CASES = [
    photo("none", gone("photo.png"), "there is no image photo.png"),
    photo("a folder without pictures", folder_at("photo.png"), "no images in photo.png"),
    photo("a link to nothing", link_at("photo.png", "nowhere"), "there is no image photo.png"),
    photo("a link to itself", link_at("photo.png", "photo.png"), "photo.png"),
    photo("a pipe", pipe_at("photo.png"), "there is no image photo.png"),
    photo("a device", link_at("photo.png", "/dev/zero"), "there is no image photo.png"),
    photo("zero bytes", put("photo.png", b""), "photo.png is not an image"),
    photo("one byte", put("photo.png", b"\x89"), "photo.png is not an image"),
    photo("HTML", put("photo.png", "<!doctype html><title>404</title>"), "photo.png is not an image"),
    photo("a PDF", put("photo.png", b"%PDF-1.7\n1 0 obj\n"), "photo.png is not an image"),
    photo("PostScript", put("photo.png", POSTSCRIPT), "photo.png is not an image"),
    photo("a ZIP archive", put("photo.png", b"PK\x03\x04" + bytes(60)), "photo.png is not an image"),
    photo("half a PNG", cut("photo.png"), "photo.png cannot be decoded", "damaged"),
    photo("a PNG without its last chunk", cut("photo.png", 0.98), "photo.png cannot be decoded"),
    photo("a PNG's signature", put("photo.png", b"\x89PNG\r\n\x1a\n"), "photo.png"),
    photo("a PNG with a wrong checksum", put("photo.png", png(8, 8, b"x")[:-16] + bytes(16)), "photo.png"),
    photo("a PNG without pixels", put("photo.png", png(0, 0, b"")), "photo.png"),
    photo("half a JPEG", put("photo.png", encoded(NOISE, "JPEG")[:900]), "photo.png cannot be decoded"),
    photo("a JPEG's header", put("photo.png", encoded(NOISE, "JPEG")[:200]), "photo.png"),
    photo("half a GIF", put("photo.png", encoded(NOISE, "GIF")[:900]), "photo.png cannot be decoded"),
    photo("half a TIFF", put("photo.png", encoded(NOISE, "TIFF")[:900]), "photo.png"),
    photo("half a BMP", put("photo.png", encoded(NOISE, "BMP")[:900]), "photo.png"),
    photo("half a WebP", put("photo.png", encoded(NOISE, "WEBP", lossless=True)[:900]), "photo.png"),
    photo("a PNG bomb of 900 megapixels", put("photo.png", bomb()), "photo.png", "100 megapixels"),
    photo("a PNG of 4 terapixels", put("photo.png", png(2**21, 2**21, b"")), "photo.png", "100 megapixels"),
    photo("a JPEG of 4,294 megapixels", put("photo.png", wide_jpeg(65_500, 65_500)), "photo.png", "100 megapixels"),
    photo("a JPEG of 100 megapixels and some", put("photo.png", wide_jpeg(10_000, 10_001)), "100 megapixels"),
    photo("a PNG with a bomb of words", put("photo.png", text_bomb()), "photo.png cannot be decoded"),
    photo("a name with a line break", named("photo.png\nblobex: all is well"), "there is no image"),
    Case("photo: a name of 300 letters", whole, f"blobex blobs {'x' * 300}.png --out out", ("x.png",)),
    Case(
        "photo: a line break in its name",
        whole,
        "blobex blobs 'none.png\nblobex: all is well' --out out",
        ("there is no image none.png",),
    ),
    folder("none", gone("photos"), "there is no image photos"),
    folder("empty", emptied, "no images in photos"),
    mask("a mask that is none", put("mask.png", b"no mask"), "mask.png is not an image"),
    mask("half a mask", lambda folder: put("mask.png", encoded(NOISE, "PNG")[:900])(folder), "mask.png", "damaged"),
    mask("a black mask", put("mask.png", encoded(Image.new("L", (64, 32)), "PNG")), "mask.png has no white"),
    mask("a bomb", put("mask.png", bomb()), "mask.png", "100 megapixels"),
    mask("a pipe", pipe_at("mask.png"), "there is no image mask.png"),
    mask("none", whole, "there is no image mask.png"),
    Case(
        "data: a folder of too few pictures",
        lambda folder: (setting("data.source", "folder")(folder), setting("data.root", "photos")(folder)),
        "stage invert rect",
        ("photos holds 2 images", "at least 10"),
    ),
    Case(
        "data: a folder that is none",
        lambda folder: (setting("data.source", "folder")(folder), setting("data.root", "photo.png")(folder)),
        "stage invert rect",
        ("there is no folder photo.png",),
    ),
    Case(
        "data: statistics of a folder that is none",
        setting("fid_stats.path", "nowhere"),
        "stage fid_stats rect",
        ("there is no folder nowhere",),
    ),
    Case(
        "data: labels of a folder of photos",
        setting("data.source", "folder"),
        "stage parser rect",
        ("its images have no labels",),
    ),
]
