"""Smooth noise, spots, honeycombs and strokes: what phantoms are painted with.

Every field is float32 `[H, W]`. Noise is drawn on a coarse grid and brought to full size by cubic
B-splines, so that a field costs about the same whatever its grain and shows the same pattern at
any resolution. No matrix products: they would leave the last bits, and the threads, to the BLAS.
"""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage


@lru_cache(maxsize=512)
def _spline_taps(size: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `size` points the first of four grid points `[size]`; their weights `[size, 4]`.

    The weights are those of cubic B-splines, scaled so that white noise keeps its variance of 1.
    """
    position = (np.arange(size) + 0.5) / size * cells
    first = np.minimum(position.astype(np.intp), cells - 1)
    t = position - first
    taps = [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    weights = np.stack(taps, axis=1)
    weights /= np.sqrt((weights**2).sum(axis=1).mean())
    return first, weights.astype(np.float32)


def _stretch_rows(grid: np.ndarray, size: int) -> np.ndarray:
    first, weights = _spline_taps(size, grid.shape[0] - 3)
    field = grid[first] * weights[:, :1]
    for k in range(1, 4):
        field += grid[first + k] * weights[:, k : k + 1]
    return field


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: float) -> np.ndarray:
    """Gaussian noise, mean 0 and standard deviation about 1, with `cells` bumps over the height."""
    height, width = shape
    rows = max(1, round(cells))
    columns = max(1, round(cells * width / height))
    grid = rng.standard_normal((rows + 3, columns + 3), dtype=np.float32)
    # The small side first, so that the large arrays are only gathered row by row.
    wide = np.ascontiguousarray(_stretch_rows(np.ascontiguousarray(grid.T), width).T)
    return _stretch_rows(wide, height)


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: float, octaves: int, gain: float = 0.6
) -> np.ndarray:
    """`octaves` layers of smooth noise, each twice as fine and `gain` as strong; deviation 1."""
    amplitudes = gain ** np.arange(octaves)
    amplitudes /= np.sqrt((amplitudes**2).sum())
    field = np.zeros(shape, np.float32)
    for octave, amplitude in enumerate(amplitudes):
        field += np.float32(amplitude) * smooth_noise(rng, shape, cells * 2**octave)
    return field


def smoothstep(low: float, high: float, values: np.ndarray) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth cubic between; `low > high` runs the other way."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


def honeycomb(
    rng: np.random.Generator, u: np.ndarray, v: np.ndarray, period: float, disorder: float
) -> np.ndarray:
    """A bent honeycomb: 0 in the holes, 1 on the lines; `period` in the unit of u and v.

    The sum of three plane waves at 60 degrees; `disorder` bends it, in periods.
    """
    shape = u.shape
    angle = rng.uniform(0, np.pi)
    cells = max(3.0, 0.45 * 3.4 / period)
    bend_u = np.float32(disorder * period) * smooth_noise(rng, shape, cells)
    bend_v = np.float32(disorder * period) * smooth_noise(rng, shape, cells)
    total = np.zeros(shape, np.float32)
    for k in range(3):
        direction = angle + k * np.pi / 3 * 2
        wave = np.float32(2 * np.pi / period)
        x, y = np.float32(np.cos(direction)), np.float32(np.sin(direction))
        total += np.cos(wave * (x * (u + bend_u) + y * (v + bend_v)))
    return smoothstep(1.2, -0.8, total)


def ridges(
    rng: np.random.Generator, shape: tuple[int, int], cells: float, width: float
) -> np.ndarray:
    """Winding thin lines, 0 to 1: where smooth noise crosses zero; `width` in deviations."""
    noise = smooth_noise(rng, shape, cells)
    return np.exp(-((noise / np.float32(width)) ** 2))


def spots(rng: np.random.Generator, where: np.ndarray, num_spots: int, radius: float) -> np.ndarray:
    """Round soft spots of about `radius` pixels, 0 to 1, scattered where `where` (bool) is true."""
    inside = np.flatnonzero(where)
    field = np.zeros(where.shape, np.float32)
    # Drawn before looking, so that whatever is drawn next does not depend on the size in pixels.
    places, weights = rng.random(num_spots), rng.uniform(0.6, 1.4, num_spots).astype(np.float32)
    if num_spots == 0 or inside.size == 0:
        return field
    np.add.at(field.reshape(-1), inside[(places * inside.size).astype(np.intp)], weights)
    sigma = max(0.5, 0.75 * radius)
    field = ndimage.gaussian_filter(field, sigma, mode="constant", truncate=3.0)
    return np.minimum(field * np.float32(2 * np.pi * sigma**2), 1.3)


def wander(
    rng: np.random.Generator,
    start: np.ndarray,
    angle: float,
    length: float,
    bend: float,
    steps: int,
) -> np.ndarray:
    """Points `[steps + 1, 2]` (x, y) of a curve whose heading drifts by about `bend` radians."""
    drift = bend * rng.normal(0, 0.7, 3)
    t = np.linspace(0, 1, steps)
    heading = angle + drift[0] * t + drift[1] * np.sin(2.2 * t) + drift[2] * np.sin(5.0 * t) * 0.4
    moves = np.stack([np.cos(heading), np.sin(heading)], axis=1) * (length / steps)
    return np.concatenate([start[None], start + np.cumsum(moves, axis=0)])


def draw_strokes(
    shape: tuple[int, int], strokes: Iterable[tuple[np.ndarray, float]], oversample: int = 2
) -> np.ndarray:
    """Polylines `(points [n, 2] as x, y in pixels, width in pixels)` as coverage from 0 to 1."""
    height, width = shape
    canvas = Image.new("L", (width * oversample, height * oversample))
    draw = ImageDraw.Draw(canvas)
    for points, thickness in strokes:
        pixels = [(float(x), float(y)) for x, y in points * oversample]
        draw.line(pixels, fill=255, width=max(1, round(thickness * oversample)))
    coverage = canvas.reduce(oversample) if oversample > 1 else canvas
    return np.asarray(coverage, np.float32) / np.float32(255)
