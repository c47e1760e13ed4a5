"""The outlines of the phantom's lesions: smooth closed curves, more or less irregular."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Outline:
    """A closed curve of area pi: radius = scale * exp(harmonics), then stretched."""

    stretch: float
    amplitudes: np.ndarray
    phases: np.ndarray
    scale: float
    reach: float  # the greatest distance of the curve from the origin

    def signed_depth(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """1 at the origin, 0 on the curve, negative outside."""
        x, y = u / np.float32(self.stretch), v * np.float32(self.stretch)
        radius = np.sqrt(x * x + y * y) + np.float32(1e-6)
        unit = ((x + 1j * y) / radius).astype(np.complex64)
        power = unit.copy()
        log_radius = np.full(u.shape, np.log(self.scale), np.float32)
        for amplitude, phase in zip(self.amplitudes, self.phases, strict=True):
            power = power * unit
            log_radius += (power * np.complex64(amplitude * np.exp(1j * phase))).real
        return 1 - radius * np.exp(-log_radius)


def draw_outline(rng: np.random.Generator, irregularity: tuple[float, float]) -> Outline:
    """An outline whose harmonics have an amplitude drawn from the range `irregularity`."""
    stretch = float(np.exp(np.clip(np.abs(rng.normal(0.05, 0.14)), 0, 0.35)))
    amplitude = rng.uniform(*irregularity)
    harmonics = np.arange(2, 9)
    amplitudes = amplitude * rng.standard_normal(7) * (harmonics - 1.0) ** -0.9
    phases = rng.uniform(0, 2 * np.pi, 7)
    angle = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    log_radius = (amplitudes * np.cos(np.outer(angle, harmonics) + phases)).sum(axis=1)
    scale = float(1 / np.sqrt(np.mean(np.exp(2 * log_radius))))
    radius = scale * np.exp(log_radius)
    reach = np.hypot(radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch).max()
    return Outline(stretch, amplitudes, phases, scale, float(reach))


def one_piece(depth: np.ndarray) -> np.ndarray:
    """The depth with only the largest region above zero kept, and its holes filled."""
    pieces, num_pieces = ndimage.label(depth > 0)
    if num_pieces > 1:
        largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        depth = np.where((pieces > 0) & (pieces != largest), np.float32(-0.05), depth)
    holes = ndimage.binary_fill_holes(depth > 0) & (depth <= 0)
    return np.where(holes, np.float32(0.02), depth)
