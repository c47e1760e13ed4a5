"""Pictures that show the same photograph: re-encoded, resized, flipped or turned.

A perceptual hash of the eight orientations finds candidates, and the correlation of the aligned
thumbnails decides: lesions look alike to a hash, a dark spot in the middle of light skin. Among
2,851 HAM10000 pictures the hashes of 1,045 pairs were within 10 bits; of the 1,023 that were of
different lesions none correlated above 0.974.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image

from skinjax.data.threads import map_in_order
from skinjax.process import num_cores

THUMBNAIL_SIZE = 32  # pixels a side; what the hash looks at

# Bits of 64 in which the hashes of two candidates may differ, and what confirms them. Of 200
# HAM10000 pictures all were found again as JPEGs of quality 30, at half their size, squashed to a
# square, flipped, turned and 15% brighter, and 199 at a third of their size. Crops are the limit:
# with 98% of each side kept 99% were found, with 97% 96%, with 95% 74%, with 90% 15%.
MAX_HASH_DISTANCE = 10
MIN_CORRELATION = 0.98

# The eight orientations of a picture, the upright one first.
ORIENTATIONS = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)

_DISC_RADIUS = 0.45  # of the side
_HASHES_AT_ONCE = 2**21  # 16 MB of distances' operands


@dataclass(frozen=True)
class Pair:
    """Two pictures that show the same photograph.

    Attributes:
      first: The index of one.
      second: The index of the other, larger than `first`.
      orientation: The index in `ORIENTATIONS` of how the second is turned to lie as the first.
      correlation: Of their thumbnails, so turned.
    """

    first: int
    second: int
    orientation: int
    correlation: float


def make_thumbnail(image: np.ndarray) -> np.ndarray:
    """Reduces a picture to what is compared.

    Args:
      image: uint8 [H, W, 3].

    Returns:
      uint8 [32, 32], grey, the whole frame squashed to a square.
    """
    grey = Image.fromarray(image).convert("L")
    size = (THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    return np.asarray(grey.resize(size, Image.Resampling.BOX))


def make_hashes(thumbnail: np.ndarray) -> np.ndarray:
    """The perceptual hash of each orientation (DCT of the thumbnail, 8x8 lowest frequencies).

    Args:
      thumbnail: uint8 [32, 32].

    Returns:
      uint64 [8], in the order of `ORIENTATIONS`.
    """
    image = Image.fromarray(thumbnail)
    turned = [image if how is None else image.transpose(how) for how in ORIENTATIONS]
    bits = np.stack([imagehash.phash(view).hash.ravel() for view in turned])
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def find_pairs(
    thumbnails: np.ndarray, hashes: np.ndarray, update: Callable[[int], None] = lambda count: None
) -> Iterator[Pair]:
    """Finds all pairs of pictures that show the same photograph, on all cores.

    Each hash is compared with each of the others, in all their orientations, so that none within
    MAX_HASH_DISTANCE is missed.

    Args:
      thumbnails: uint8 [N, 32, 32].
      hashes: uint64 [N, 8], of `make_hashes`.
      update: Is told how many more pictures were compared with all that come after them.

    Yields:
      The pairs, each once, in its best orientation, ordered by their first picture.
    """
    flat = np.ascontiguousarray(hashes).reshape(-1)

    def compare(rows: range) -> list[Pair]:
        distances = np.bitwise_count(hashes[rows.start : rows.stop, :1] ^ flat[8 * rows.start :])
        row, column = np.nonzero(distances <= MAX_HASH_DISTANCE)
        return _confirmed(thumbnails, rows.start + row, rows.start + column // 8, column % 8)

    with ThreadPoolExecutor(num_cores()) as pool:
        blocks = _blocks(len(thumbnails))
        for rows, pairs in map_in_order(pool, compare, blocks, 2 * num_cores()):
            yield from pairs
            update(len(rows))


def _blocks(count: int) -> Iterator[range]:
    """Rows that are compared at once with all that come after them, few enough for the memory."""
    first = 0
    while first < count:
        num_rows = max(1, min(_HASHES_AT_ONCE // (8 * (count - first)), count - first))
        yield range(first, first + num_rows)
        first += num_rows


def _normalise(thumbnails: np.ndarray) -> np.ndarray:
    """Thumbnails of mean 0 and norm 1 within a disc, as float32 [N, 32, 32].

    Outside of it, the dark corners that many dermatoscopes leave would make all their pictures
    alike.
    """
    centres = np.arange(THUMBNAIL_SIZE) - (THUMBNAIL_SIZE - 1) / 2
    disc = np.hypot(centres[:, None], centres) <= _DISC_RADIUS * THUMBNAIL_SIZE
    inside = thumbnails[:, disc].astype(np.float32)
    inside -= inside.mean(axis=1, keepdims=True)
    inside /= np.maximum(np.linalg.norm(inside, axis=1, keepdims=True), 1e-6)
    views = np.zeros(thumbnails.shape, np.float32)
    views[:, disc] = inside
    return views


def _confirmed(
    thumbnails: np.ndarray, firsts: np.ndarray, seconds: np.ndarray, orientations: np.ndarray
) -> list[Pair]:
    """The candidates that correlate once aligned; each pair once, in its best orientation."""
    different = seconds > firsts
    firsts, seconds, orientations = firsts[different], seconds[different], orientations[different]
    correlations = np.zeros(len(firsts), np.float32)
    for orientation, how in enumerate(ORIENTATIONS):
        chosen = np.flatnonzero(orientations == orientation)
        for part in np.array_split(chosen, len(chosen) // 4096 + 1):
            ours = _normalise(thumbnails[firsts[part]])
            theirs = _turn(_normalise(thumbnails[seconds[part]]), how)
            correlations[part] = np.einsum("nij,nij->n", ours, theirs)
    best: dict[tuple[int, int], Pair] = {}
    for index in np.flatnonzero(correlations >= MIN_CORRELATION):
        key = int(firsts[index]), int(seconds[index])
        pair = Pair(*key, int(orientations[index]), float(correlations[index]))
        if key not in best or best[key].correlation < pair.correlation:
            best[key] = pair
    return [best[key] for key in sorted(best)]


def _turn(views: np.ndarray, how: Image.Transpose | None) -> np.ndarray:
    """Turns a stack [N, S, S] as Pillow turns a picture."""
    return views if how is None else _TURNS[how](views)


_TURNS: dict[Image.Transpose, Callable[[np.ndarray], np.ndarray]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda x: x[:, :, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda x: x[:, ::-1],
    Image.Transpose.ROTATE_180: lambda x: x[:, ::-1, ::-1],
    Image.Transpose.ROTATE_90: lambda x: np.rot90(x, 1, (1, 2)),
    Image.Transpose.ROTATE_270: lambda x: np.rot90(x, -1, (1, 2)),
    Image.Transpose.TRANSPOSE: lambda x: x.swapaxes(1, 2),
    Image.Transpose.TRANSVERSE: lambda x: x[:, ::-1, ::-1].swapaxes(1, 2),
}
