"""Encoded images (png, jpg) to one uint8 array, decoded by a pool of threads."""

import contextlib
import io
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from jaxrobust.data.files import short
from jaxrobust.data.image_set import MIN_SIDE
from jaxrobust.errors import UserError

Encoded = Path | bytes
T = TypeVar("T")

GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
)
CHUNK = 128


def decode_all(items: Sequence[Encoded], image_size: int) -> np.ndarray:
    """uint8[N,H,W,C] of png or jpg files (or their bytes), in order.

    `image_size` > 0: the central square, then bicubic to that many pixels a side (an
    image of that very size is untouched); 0: all images must already share one size.
    C is 1 when all images are grey, else 3; an alpha channel is dropped, an orientation
    tag is not applied. Raises `UserError` for a file that is broken, too small, of more
    than 8 bits, or of another size than its fellows.
    """
    if image_size and image_size < MIN_SIDE:
        raise UserError(f"image_size={image_size} is below {MIN_SIDE}: use 0 or more")
    rows = range(len(items))
    heads = _threaded(lambda row: _head(items, row), rows)
    _check_sizes(items, [size for size, _ in heads], image_size)
    grey = {mode for _, mode in heads} <= set(GREY_MODES)
    width, height = (image_size, image_size) if image_size else heads[0][0]
    out = np.empty((len(items), height, width, 1 if grey else 3), np.uint8)

    def decode(row: int) -> None:
        with _opened(items, row) as picture:
            pixels = picture.convert("L" if grey else "RGB")
            pixels = square(pixels, image_size) if image_size else pixels
            out[row] = np.asarray(pixels).reshape(out.shape[1:])

    _threaded(decode, rows)
    return out


def square(picture: Image.Image, side: int) -> Image.Image:
    """The central square of a picture, bicubic to `side` x `side` pixels."""
    width, height = picture.size
    if width != height:
        short_side = min(width, height)
        left, top = (width - short_side) // 2, (height - short_side) // 2
        picture = picture.crop((left, top, left + short_side, top + short_side))
    if picture.size == (side, side):
        return picture
    return picture.resize((side, side), Image.Resampling.BICUBIC)


@contextlib.contextmanager
def _opened(items: Sequence[Encoded], row: int) -> Iterator[Image.Image]:
    """An open picture; whatever Pillow raises on broken bytes becomes a `UserError`."""
    item = items[row]
    try:
        with Image.open(
            io.BytesIO(item) if isinstance(item, bytes) else item
        ) as opened:
            yield opened
    except BROKEN as error:
        raise UserError(
            f"{_name(items, row)} cannot be decoded ({type(error).__name__}): it is no "
            "png or jpg, or is cut off; replace or remove it"
        ) from None


def _head(items: Sequence[Encoded], row: int) -> tuple[tuple[int, int], str]:
    """Size and mode, which stand in the first bytes: nothing is decoded yet."""
    with _opened(items, row) as picture:
        if picture.mode in DEEP_MODES:
            raise UserError(
                f"{_name(items, row)} has more than 8 bits a channel: save it as 8-bit"
            )
        return picture.size, picture.mode


def _check_sizes(
    items: Sequence[Encoded], sizes: list[tuple[int, int]], image_size: int
) -> None:
    for row, (width, height) in enumerate(sizes):
        if min(width, height) < MIN_SIDE:
            raise UserError(
                f"{_name(items, row)} has {width}x{height} pixels: images need at "
                f"least {MIN_SIDE} a side, remove it"
            )
        if not image_size and (width, height) != sizes[0]:
            raise UserError(
                f"{_name(items, row)} has {width}x{height} pixels, others have "
                f"{sizes[0][0]}x{sizes[0][1]}: set image_size to resize all of them"
            )


def _name(items: Sequence[Encoded], row: int) -> str:
    item = items[row]
    return short(item) if isinstance(item, Path) else f"image {row}"


def _threaded(function: Callable[..., T], items: Sequence) -> list[T]:
    """[function(item) for item in items] over all cores; Pillow frees the lock."""

    def run(start: int) -> list[T]:
        return [function(item) for item in items[start : start + CHUNK]]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(run, range(0, len(items), CHUNK)))
    return [result for part in parts for result in part]
