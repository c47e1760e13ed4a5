"""The lesions of the phantom: outline, colour and inner structure of each of the seven classes.

Colour follows the Beer-Lambert law, as light through skin does: a lesion is an optical density for
each of R, G and B, and the picture is skin * exp(-density). A lesion is painted in a frame of its
own, in which its area is that of the unit disc, so that several views can show the same one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from skinjax.data.sources.phantom_outline import Outline, one_piece
from skinjax.data.sources.phantom_texture import (
    draw_strokes,
    fractal_noise,
    honeycomb,
    ridges,
    smoothstep,
    spots,
    wander,
)

# Densities for R, G and B of what colours a lesion, at strength 1.
MELANIN = np.array([0.45, 0.9, 1.0], np.float32)
DEEP_MELANIN = np.array([1.0, 0.85, 0.6], np.float32)  # scattered light makes it blue-grey
BLOOD = np.array([0.12, 0.8, 0.55], np.float32)
KERATIN = np.array([0.05, 0.15, 0.45], np.float32)
SCAR = np.array([235, 220, 225], np.float32)
BLUE_VEIL = np.array([135, 145, 185], np.float32)
SCALE = np.array([240, 230, 205], np.float32)


@dataclass(frozen=True)
class Recipe:
    """How the lesions of a class are drawn; ranges are (low, high) of a uniform draw.

    `side`, `side_spread`: mean and deviation of the square root of its share of the picture.
    `density`: its usual optical density for R, G and B; `spread`: the deviation of the logarithm
    of its strength. These four start from what was measured on HAM10000. `softness`: over what
    depth the colour comes to its full strength; `mottling`: how uneven it is.
    """

    side: float
    side_spread: float
    density: tuple[float, float, float]
    spread: float
    irregularity: tuple[float, float]
    softness: tuple[float, float]
    mottling: tuple[float, float]


RECIPES = {
    "akiec": Recipe(0.62, 0.18, (0.03, 0.15, 0.15), 0.55, (0.06, 0.18), (0.2, 0.8), (0.2, 0.7)),
    "bcc": Recipe(0.48, 0.19, (0.06, 0.18, 0.15), 0.55, (0.05, 0.16), (0.2, 0.8), (0.2, 0.7)),
    "bkl": Recipe(0.57, 0.17, (0.13, 0.30, 0.37), 0.65, (0.06, 0.18), (0.1, 0.5), (0.2, 0.6)),
    "df": Recipe(0.53, 0.14, (0.14, 0.46, 0.46), 0.45, (0.03, 0.09), (0.25, 0.8), (0.15, 0.5)),
    "mel": Recipe(0.55, 0.20, (0.30, 0.64, 0.73), 0.60, (0.07, 0.2), (0.12, 0.6), (0.2, 0.55)),
    "nv": Recipe(0.46, 0.18, (0.27, 0.70, 0.78), 0.50, (0.03, 0.12), (0.1, 0.6), (0.15, 0.45)),
    "vasc": Recipe(0.36, 0.15, (0.34, 1.00, 0.58), 0.45, (0.02, 0.12), (0.04, 0.3), (0.1, 0.4)),
}


@dataclass
class Canvas:
    """A lesion being painted: fields `[A, A]` or `[A, A, 3]` over the square +-extent."""

    rng: np.random.Generator
    extent: float
    u: np.ndarray
    v: np.ndarray
    depth: np.ndarray  # 1 in the middle, 0 on the outline, negative outside
    pigment: np.ndarray  # 0 outside to 1 where the colour is full
    density: np.ndarray
    veil: np.ndarray  # 0 to 1: how much of `veil_colour` covers the rest
    veil_colour: np.ndarray
    strength: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of every field."""
        return self.depth.shape[0], self.depth.shape[1]

    @property
    def pixels(self) -> float:
        """Pixels to the unit of u and v, the lesion's mean radius."""
        return self.shape[0] / (2 * self.extent)

    def noise(self, bumps: float, octaves: int = 1) -> np.ndarray:
        """Noise with `bumps` to the unit of u and v."""
        return fractal_noise(self.rng, self.shape, bumps * 2 * self.extent, octaves)

    def add(self, colour: np.ndarray, amount: np.ndarray) -> None:
        """Add `colour` at `amount`, which ends about the outline."""
        self.density += (amount * smoothstep(-0.08, 0.06, self.depth))[..., None] * colour

    def cover(self, colour: np.ndarray, amount: np.ndarray) -> None:
        """Lay opaque `colour` over the lesion at `amount`, 0 to 1, which ends about the outline."""
        self.veil = np.maximum(self.veil, amount * smoothstep(-0.08, 0.06, self.depth))
        self.veil_colour = colour

    def patch(self, share: float, bumps: float, softness: float = 0.5) -> np.ndarray:
        """0 to 1: patches that fill about `share` of the lesion."""
        noise = self.noise(bumps, 2)
        level = float(np.quantile(noise[::3, ::3], 1 - share))
        return smoothstep(level - softness, level + softness, noise) * self.pigment

    def blob(self, distance: float, size: float) -> np.ndarray:
        """0 to 1: one soft, bent spot of radius `size`, up to `distance` from the middle."""
        angle, far = self.rng.uniform(0, 2 * np.pi), distance * np.sqrt(self.rng.random())
        u0, v0 = np.float32(far * np.cos(angle)), np.float32(far * np.sin(angle))
        r = np.sqrt((self.u - u0) ** 2 + (self.v - v0) ** 2) / np.float32(size)
        return smoothstep(1.35, 0.4, r + np.float32(0.24) * self.noise(2.5, 4)) * self.pigment

    def scatter(self, where: np.ndarray, numbers: tuple[int, int], radius: float) -> np.ndarray:
        """Spots of about `radius` (in units) on `where`, as many as a draw from the range."""
        number, size = int(self.rng.integers(*numbers)), radius * self.pixels
        coarse = spots(self.rng, where, number // 3, 1.3 * size)
        return np.maximum(coarse, spots(self.rng, where, number, 0.7 * size))

    def network(self, period: float, disorder: float) -> np.ndarray:
        """A pigment network of this period (in units), 0 in its holes and 1 on its lines."""
        # Below three pixels a mesh is only aliasing.
        return honeycomb(self.rng, self.u, self.v, max(period, 3.2 / self.pixels), disorder)


def _paint_nv(canvas: Canvas) -> None:
    rng, strength = canvas.rng, canvas.strength
    kind = rng.random()
    if kind < 0.5:
        mesh = canvas.network(rng.uniform(0.04, 0.08), rng.uniform(0.45, 0.8))
        patchy = smoothstep(-1.2, 0.8, canvas.noise(1.5))
        weight = np.float32(rng.uniform(0.1, 0.45)) * patchy
        canvas.density *= (1 + weight * (mesh - np.float32(0.45)))[..., None]
    elif kind < 0.75:
        dots = canvas.scatter(canvas.pigment > 0.3, (25, 110), rng.uniform(0.03, 0.07))
        canvas.add(MELANIN, dots * canvas.pigment * np.float32(rng.uniform(0.1, 0.35) * strength))
    if rng.random() < 0.35:
        canvas.add(MELANIN, canvas.blob(0.35, rng.uniform(0.25, 0.5)) * np.float32(0.5 * strength))
    if rng.random() < 0.2:
        lighter = canvas.blob(0.3, rng.uniform(0.25, 0.5))
        canvas.density *= (1 - np.float32(rng.uniform(0.2, 0.6)) * lighter)[..., None]
    if rng.random() < 0.3:
        canvas.add(BLOOD, canvas.patch(0.5, 1.0) * np.float32(rng.uniform(0.1, 0.3)))
    if rng.random() < 0.08:
        canvas.add(DEEP_MELANIN, canvas.blob(0.3, rng.uniform(0.4, 0.8)) * np.float32(0.5))


def _paint_mel(canvas: Canvas) -> None:
    rng, strength = canvas.rng, canvas.strength
    mesh = canvas.network(rng.uniform(0.04, 0.09), rng.uniform(0.6, 1.0))
    canvas.density *= (
        1 + np.float32(rng.uniform(0.2, 0.7)) * canvas.patch(0.5, 1.2) * (mesh - 0.4)
    )[..., None]
    for _ in range(rng.integers(1, 4)):
        dark = canvas.blob(0.65, rng.uniform(0.2, 0.55))
        canvas.add(MELANIN, dark * np.float32(rng.uniform(0.15, 0.7) * max(strength, 0.4)))
    if rng.random() < 0.5:
        paler = canvas.blob(0.7, rng.uniform(0.3, 0.6))
        canvas.density *= (1 - np.float32(rng.uniform(0.4, 0.85)) * paler)[..., None]
    if rng.random() < 0.45:
        canvas.add(BLOOD, canvas.patch(0.35, 1.0) * np.float32(rng.uniform(0.15, 0.5)))
    if rng.random() < 0.55:
        canvas.add(DEEP_MELANIN, canvas.blob(0.45, rng.uniform(0.3, 0.6)) * np.float32(0.6))
    if rng.random() < 0.6:
        rim = (canvas.depth > 0.05) & (canvas.depth < 0.4)
        dots = canvas.scatter(rim, (10, 60), rng.uniform(0.025, 0.06))
        canvas.add(MELANIN, dots * np.float32(rng.uniform(0.15, 0.5)))
    if rng.random() < 0.55:
        veil = canvas.blob(0.4, rng.uniform(0.3, 0.6)) * smoothstep(-1.5, 0.8, canvas.noise(3.0, 2))
        canvas.cover(BLUE_VEIL, veil * np.float32(rng.uniform(0.2, 0.55)))


def _paint_bkl(canvas: Canvas) -> None:
    rng, strength = canvas.rng, canvas.strength
    canvas.add(KERATIN, canvas.pigment * np.float32(rng.uniform(0.0, 0.2)))
    if rng.random() < 0.5:
        folds = ridges(rng, canvas.shape, rng.uniform(5, 9) * canvas.extent, rng.uniform(0.3, 0.6))
        change = np.float32(rng.uniform(-0.5, 0.6)) * (folds - np.float32(0.4))
        canvas.density *= (1 + change)[..., None]
    if rng.random() < 0.5:
        openings = canvas.scatter(canvas.pigment > 0.5, (6, 40), rng.uniform(0.02, 0.05))
        canvas.add(MELANIN, openings * canvas.pigment * np.float32(0.1 + 0.2 * strength))
    if rng.random() < 0.55:
        cysts = canvas.scatter(canvas.pigment > 0.5, (8, 60), rng.uniform(0.025, 0.06))
        canvas.cover(
            SCALE, np.minimum(cysts, 1) * canvas.pigment * np.float32(rng.uniform(0.1, 0.4))
        )
    if rng.random() < 0.5:
        canvas.add(MELANIN, canvas.patch(rng.uniform(0.2, 0.5), 1.3) * np.float32(0.5 * strength))
    if rng.random() < 0.15:
        peppering = canvas.scatter(canvas.pigment > 0.3, (60, 250), 0.02)
        canvas.add(DEEP_MELANIN, peppering * np.float32(rng.uniform(0.08, 0.3)))
    if rng.random() < 0.2:
        canvas.add(BLOOD, canvas.patch(0.4, 1.0) * np.float32(rng.uniform(0.1, 0.4)))


def _paint_bcc(canvas: Canvas) -> None:
    rng = canvas.rng
    canvas.add(BLOOD, canvas.patch(0.5, 1.2) * np.float32(rng.uniform(0.05, 0.3)))
    if rng.random() < 0.65:
        canvas.add(BLOOD, _vessels(canvas) * np.float32(rng.uniform(0.3, 0.7)))
    if rng.random() < 0.6:
        for _ in range(rng.integers(1, 6)):
            nest = canvas.blob(0.65, rng.uniform(0.08, 0.32))
            colour = DEEP_MELANIN if rng.random() < 0.65 else MELANIN
            canvas.add(colour, nest * np.float32(rng.uniform(0.2, 0.7)))
    if rng.random() < 0.45:
        where = canvas.patch(0.35, 1.2) > 0.5
        dots = canvas.scatter(where, (10, 60), rng.uniform(0.02, 0.05))
        canvas.add(DEEP_MELANIN, dots * np.float32(rng.uniform(0.2, 0.6)))
    if rng.random() < 0.3:
        sore = canvas.blob(0.4, rng.uniform(0.12, 0.35))
        canvas.add(BLOOD + np.float32(0.3) * MELANIN, sore * np.float32(rng.uniform(0.4, 0.9)))
    if rng.random() < 0.4:
        pale = canvas.blob(0.5, rng.uniform(0.25, 0.6)) * smoothstep(
            -1.0, 1.0, canvas.noise(5.0, 2)
        )
        canvas.cover(SCAR, pale * np.float32(rng.uniform(0.2, 0.6)))


def _paint_akiec(canvas: Canvas) -> None:
    rng = canvas.rng
    canvas.add(BLOOD, canvas.patch(rng.uniform(0.3, 0.7), 1.5) * np.float32(rng.uniform(0.1, 0.4)))
    if rng.random() < 0.55:
        mesh = canvas.network(rng.uniform(0.06, 0.12), 0.7)
        weight = canvas.patch(0.6, 1.2) * np.float32(rng.uniform(0.05, 0.25))
        canvas.add(BLOOD, (mesh - np.float32(0.3)) * weight)
        if rng.random() < 0.6:
            plugs = smoothstep(0.25, 0.0, mesh) * canvas.patch(0.5, 1.2)
            canvas.cover(SCALE, plugs * np.float32(rng.uniform(0.1, 0.45)))
    if rng.random() < 0.65:
        scales = canvas.patch(rng.uniform(0.1, 0.3), 8.0, 0.9)
        canvas.cover(SCALE, scales * np.float32(rng.uniform(0.1, 0.45)))
    if rng.random() < 0.45:
        brown = canvas.patch(rng.uniform(0.2, 0.5), 2.0)
        canvas.add(MELANIN, brown * np.float32(rng.uniform(0.1, 0.5)))
    if rng.random() < 0.4:
        vessels = canvas.scatter(canvas.pigment > 0.3, (30, 120), rng.uniform(0.02, 0.04))
        canvas.add(BLOOD, vessels * np.float32(rng.uniform(0.2, 0.5)))


def _paint_df(canvas: Canvas) -> None:
    rng = canvas.rng
    mesh = canvas.network(rng.uniform(0.05, 0.09), 0.55)
    rim = smoothstep(0.75, 0.3, canvas.depth)
    weight = np.float32(rng.uniform(0.1, 0.4)) * rim
    canvas.density *= (1 + weight * (mesh - np.float32(0.4)))[..., None]
    pale = canvas.blob(0.15, rng.uniform(0.25, 0.55))
    canvas.density *= (1 - np.float32(rng.uniform(0.3, 0.8)) * pale)[..., None]
    if rng.random() < 0.6:
        lines = smoothstep(-1.0, 0.8, canvas.noise(6.0, 2))
        canvas.cover(SCAR, pale * lines * np.float32(rng.uniform(0.25, 0.7)))
    if rng.random() < 0.4:
        canvas.add(BLOOD, canvas.patch(0.5, 1.0) * np.float32(rng.uniform(0.1, 0.3)))


def _paint_vasc(canvas: Canvas) -> None:
    rng = canvas.rng
    kind = rng.random()
    if kind < 0.65:
        septa = canvas.network(rng.uniform(0.15, 0.4), rng.uniform(0.6, 1.0))
        canvas.density *= (1.1 - np.float32(rng.uniform(0.1, 0.5)) * septa)[..., None]
        tint = smoothstep(-1.0, 1.5, canvas.noise(2.0)) * canvas.pigment
        canvas.add(DEEP_MELANIN, tint * np.float32(rng.uniform(0.0, 0.6)))
        if rng.random() < 0.3:
            pale = smoothstep(0.5, 1.0, septa) * canvas.pigment
            canvas.cover(SCAR, pale * np.float32(rng.uniform(0.05, 0.3)))
    else:
        canvas.density *= np.float32(rng.uniform(0.2, 0.8))
        clots = canvas.scatter(canvas.pigment > 0.4, (15, 90), rng.uniform(0.04, 0.09))
        canvas.add(BLOOD, clots * canvas.pigment * np.float32(rng.uniform(0.3, 0.8)))
    if rng.random() < 0.25:
        dark = canvas.patch(rng.uniform(0.3, 0.9), 1.0)
        canvas.add(DEEP_MELANIN + MELANIN, dark * np.float32(rng.uniform(0.4, 1.0)))


def _vessels(canvas: Canvas) -> np.ndarray:
    """Arborising vessels: a few winding trunks that branch and thin out, 0 to 1."""
    rng, size = canvas.rng, canvas.shape[0]
    strokes = []
    for _ in range(rng.integers(2, 6)):
        start = size / 2 + rng.normal(0, 0.45, 2) * canvas.pixels
        heading = rng.uniform(0, 2 * np.pi)
        trunk = wander(rng, start, heading, rng.uniform(0.5, 1.2) * canvas.pixels, 0.7, 10)
        strokes.append((trunk, rng.uniform(0.012, 0.03) * canvas.pixels))
        for _ in range(rng.integers(1, 5)):
            base = trunk[rng.integers(1, 10)]
            turn = heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.3)
            branch = wander(rng, base, turn, rng.uniform(0.2, 0.6) * canvas.pixels, 0.9, 7)
            strokes.append((branch, 0.012 * canvas.pixels))
    return draw_strokes(canvas.shape, strokes) * smoothstep(-0.15, 0.15, canvas.depth)


_PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "akiec": _paint_akiec,
    "bcc": _paint_bcc,
    "bkl": _paint_bkl,
    "df": _paint_df,
    "mel": _paint_mel,
    "nv": _paint_nv,
    "vasc": _paint_vasc,
}


def paint_lesion(rng: np.random.Generator, label: str, outline: Outline, pixels: float) -> Canvas:
    """Paint a lesion of class `label` at about `pixels` to its mean radius.

    `depth > 0` is its exact mask. The colour fades in from just outside the outline, as it does
    round outlines drawn by people: on HAM10000 a naevus has a fifth of its density at a depth of
    0.05 and nearly all of it at 0.5.
    """
    recipe = RECIPES[label]
    extent = 1.2 * outline.reach + 0.25
    # Multiples of 16 keep the number of spline matrices small.
    size = int(np.clip(np.ceil(2 * extent * pixels / 16) * 16, 48, 1024))
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1) * np.float32(extent)
    u, v = (
        np.broadcast_to(axis[None, :], (size, size)),
        np.broadcast_to(axis[:, None], (size, size)),
    )
    depth = outline.signed_depth(u, v)
    depth += np.float32(rng.uniform(0.015, 0.07)) * fractal_noise(rng, depth.shape, 5 * extent, 2)
    depth = one_piece(depth)

    margin, softness = rng.uniform(-0.17, 0.01), rng.uniform(*recipe.softness)
    rough = np.float32(np.exp(rng.uniform(-4.4, -2.2)))
    rough_depth = depth + rough * fractal_noise(rng, depth.shape, 8 * extent, 4, 0.75)
    pigment = smoothstep(margin, margin + softness, rough_depth) * smoothstep(-0.08, 0.06, depth)

    strength = float(np.exp(np.clip(rng.normal(0, recipe.spread), -1.4, 1.1)))
    colour = np.array(recipe.density) * strength * np.exp(rng.normal(0, [0.25, 0.08, 0.1]))
    colour[0] *= strength**0.3  # pale lesions are pink or tan, dark ones black: red goes last
    mottling = np.float32(rng.uniform(*recipe.mottling))
    modulation = 1 + mottling * fractal_noise(rng, depth.shape, 2.5 * extent, 5, 0.78)
    modulation += np.float32(rng.normal(0.25, 0.4)) * (np.clip(depth, 0, 1) - np.float32(0.35))
    amount = pigment * np.clip(modulation, 0.05, 3)
    if rng.random() < 0.35:
        # A reddish or brownish court that nobody would outline.
        fall = np.exp(np.minimum(depth, 0) / np.float32(rng.uniform(0.06, 0.3)))
        fall *= smoothstep(extent, 0.8 * extent, np.hypot(u, v))
        amount = np.maximum(amount, fall * np.float32(rng.uniform(0.04, 0.2)))
    canvas = Canvas(
        rng=rng,
        extent=extent,
        u=u,
        v=v,
        depth=depth,
        pigment=pigment,
        density=amount[..., None] * colour.astype(np.float32),
        veil=np.zeros_like(depth),
        veil_colour=SCAR,
        strength=strength,
    )
    _PAINTERS[label](canvas)
    return canvas


def draw_side(rng: np.random.Generator, label: str) -> float:
    """The square root of the share of the picture that a lesion of this class covers."""
    recipe = RECIPES[label]
    return float(np.clip(rng.normal(recipe.side, recipe.side_spread), 0.09, 1.0))
