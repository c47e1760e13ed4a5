"""What surrounds the lesions of the phantom: skin, hairs, marks, light and camera.

Pictures are float32 `[H, W, 3]` from 0 to 255. Lengths are in heights of the picture.
"""

import numpy as np
from scipy import ndimage

from skinjax.data.sources.phantom_lesion import BLOOD, DEEP_MELANIN, MELANIN
from skinjax.data.sources.phantom_texture import (
    draw_strokes,
    fractal_noise,
    ridges,
    smooth_noise,
    smoothstep,
    spots,
    wander,
)

# Skin as the cameras of HAM10000 saw it (RGB; clusters of the median colour round the lesion), and
# how often naevi and other lesions lie on it. The last two, dark skin, are rarer still there.
SKIN_TONES = np.array(
    [
        [191, 163, 175],
        [218, 143, 147],
        [232, 164, 170],
        [221, 192, 205],
        [168, 139, 149],
        [205, 121, 116],
        [214, 182, 160],
        [158, 112, 92],
        [112, 78, 66],
    ],
    np.float32,
)
_NAEVUS_TONES = np.array([0.18, 0.24, 0.22, 0.13, 0.09, 0.08, 0.04, 0.015, 0.005])
_OTHER_TONES = np.array([0.31, 0.09, 0.12, 0.16, 0.19, 0.04, 0.07, 0.015, 0.005])


def draw_skin_tone(rng: np.random.Generator, label: str) -> np.ndarray:
    """A skin colour `[3]`, as likely as it is round a lesion of this class."""
    odds = _NAEVUS_TONES if label in ("nv", "vasc") else _OTHER_TONES
    tone = SKIN_TONES[rng.choice(len(SKIN_TONES), p=odds / odds.sum())]
    spread = rng.normal(0, 0.045) + rng.normal(0, [0.02, 0.03, 0.04])
    return (tone * np.exp(spread)).astype(np.float32)


def paint_skin(
    rng: np.random.Generator, tone: np.ndarray, label: str, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """The optical density `[H, W, 3]` of skin against its tone: blotches, vessels, lines, freckles.

    `x`, `y` are the pixels' coordinates, in heights.
    """
    height, _ = shape = x.shape
    weathered = label not in ("nv", "vasc")  # the others grow on older, sun-damaged skin
    # Grain: what is left of pores and fine relief at this resolution.
    shade = np.float32(rng.uniform(0.006, 0.03)) * fractal_noise(rng, shape, 3, 5, 0.75)
    shade += np.float32(rng.uniform(0.002, 0.02)) * smooth_noise(rng, shape, rng.uniform(40, 75))
    if rng.random() < 0.4:
        shade -= _skin_lines(rng, x, y)
    density = shade[..., None] * np.array([0.8, 1.0, 1.05], np.float32)
    if rng.random() < (0.6 if weathered else 0.2):
        noise = fractal_noise(rng, shape, rng.uniform(2.5, 8), 3)
        blotches = smoothstep(rng.uniform(-0.2, 1.0), 2.2, noise)
        density += blotches[..., None] * (MELANIN * np.float32(rng.uniform(0.08, 0.5)))
    if rng.random() < (0.45 if weathered else 0.25):
        noise = fractal_noise(rng, shape, rng.uniform(1.5, 14), 4, 0.8)
        flush = smoothstep(-1.2, 2.2, noise)  # never less blood than none: skin would turn green
        density += flush[..., None] * (BLOOD * np.float32(rng.uniform(0.05, 0.35)))
    if rng.random() < (0.25 if weathered else 0.06):
        mesh = ridges(rng, shape, rng.uniform(14, 30), rng.uniform(0.3, 0.7))
        mesh *= smoothstep(-1.0, 1.5, smooth_noise(rng, shape, 4))
        colour = BLOOD if rng.random() < 0.6 else MELANIN
        density += mesh[..., None] * (colour * np.float32(rng.uniform(0.03, 0.13)))
    if rng.random() < (0.25 if weathered else 0.1):
        density += _red_veins(rng, shape)[..., None] * (BLOOD * np.float32(rng.uniform(0.1, 0.35)))
    if rng.random() < 0.35:
        where = np.ones(shape, bool)
        dots = np.zeros(shape, np.float32)
        for radius in rng.uniform(0.004, 0.02, 3) * height:
            dots += spots(rng, where, int(rng.integers(0, 12)), radius)
        colour = MELANIN if rng.random() < 0.75 else BLOOD
        density += dots[..., None] * (colour * np.float32(rng.uniform(0.1, 0.5)))
    if rng.random() < 0.06:
        speckle = spots(rng, np.ones(shape, bool), int(rng.integers(80, 500)), 0.005 * height)
        density += speckle[..., None] * (DEEP_MELANIN * np.float32(rng.uniform(-0.25, 0.3)))
    return density


def _skin_lines(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Furrows of the skin, one or two bent bundles of parallel lines; brighter where positive."""
    lines = np.zeros(x.shape, np.float32)
    angle = rng.uniform(0, np.pi)
    for _ in range(rng.integers(1, 3)):
        bend = np.float32(rng.uniform(0.005, 0.03)) * fractal_noise(rng, x.shape, 3, 3)
        along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y + bend
        wave = np.sin(np.float32(2 * np.pi * rng.uniform(14, 34)) * along)
        weight = smoothstep(-0.8, 1.5, smooth_noise(rng, x.shape, 3))
        lines += weight * smoothstep(0.3, 1.0, wave) * np.float32(rng.uniform(0.01, 0.045))
        angle += rng.uniform(0.7, 1.6)
    return lines


def _red_veins(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    height, width = shape
    strokes = []
    for _ in range(rng.integers(3, 16)):
        start = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        length = rng.uniform(0.1, 0.5) * height
        path = wander(rng, start, rng.uniform(0, 2 * np.pi), length, 2.0, 10)
        strokes.append((path, rng.uniform(0.006, 0.016) * height))
    return ndimage.gaussian_filter(draw_strokes(shape, strokes), 0.004 * height)


def paint_bystanders(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Density of other small pigmented spots away from the middle, which no outline includes."""
    total = np.zeros((*x.shape, 3), np.float32)
    aspect = x.shape[1] / x.shape[0]
    for _ in range(rng.integers(1, 4)):
        x0 = rng.uniform(0.02, 0.98) * aspect
        y0 = rng.uniform(0.02, 0.98)
        size = np.float32(np.exp(rng.uniform(-4.4, -2.0)))
        if np.hypot(x0 - aspect / 2, y0 - 0.5) < 0.42 + size:
            continue
        stretch = np.float32(rng.uniform(0.7, 1.4))
        r = np.hypot(x - np.float32(x0), (y - np.float32(y0)) * stretch) / size
        spot = smoothstep(1.5, 0.6, r + np.float32(0.25) * fractal_noise(rng, x.shape, 8, 3))
        colour = MELANIN if rng.random() < 0.85 else BLOOD
        total += spot[..., None] * (colour * np.float32(rng.uniform(0.1, 0.6)))
    return total


def add_hairs(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Draw no, some or many hairs, dark or fair, or shaven stubble, into the picture."""
    height, width = shape = picture.shape[:2]
    kind = rng.random()
    if kind < 0.42:
        return
    heading, spread = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 1.2)
    stubble = kind > 0.96
    if stubble:
        number = int(rng.integers(10, 70))
    else:
        number = int(np.exp(rng.uniform(0.0, 1.8) if kind < 0.75 else rng.uniform(1.0, 4.7)))
    thickness = rng.uniform(0.003, 0.012 if number > 30 and not stubble else 0.008) * height
    strokes = []
    for _ in range(number):
        start = np.array([rng.uniform(-0.1, 1.1) * width, rng.uniform(-0.1, 1.1) * height])
        length = rng.uniform(0.02, 0.06) if stubble else rng.uniform(0.25, 1.5)
        angle = heading + rng.normal(0, spread)
        path = wander(rng, start, angle, length * height, rng.uniform(0.05, 0.9), 14)
        strokes.append((path, thickness * rng.uniform(0.6, 1.4)))
    cover = draw_strokes(shape, strokes, 3)[..., None]
    if kind > 0.85 or rng.random() < 0.7:
        colour = np.array([60, 35, 32], np.float32) * np.float32(rng.uniform(0.4, 1.6))
        cover = cover * np.float32(rng.uniform(0.35, 0.9))
    else:
        colour = np.array([240, 215, 200], np.float32)
        cover = cover * np.float32(rng.uniform(0.12, 0.4))
    picture += cover * (colour - picture)


def add_marks(rng: np.random.Generator, picture: np.ndarray) -> None:
    """Draw ruler ticks, gel bubbles, glints and ink into the picture, each now and then."""
    height, width = shape = picture.shape[:2]
    if rng.random() < 0.09:
        picture += _ruler(rng, shape)[..., None] * (np.float32(25) - picture)
    if rng.random() < 0.07:
        _add_bubbles(rng, picture)
    if rng.random() < 0.15:
        middle = np.ones(shape, bool)
        glints = spots(rng, middle, int(rng.integers(3, 60)), 0.004 * height)
        glints *= smoothstep(0.0, 1.2, smooth_noise(rng, shape, 3))
        picture += np.minimum(glints, 1)[..., None] * (np.float32(250) - picture) * np.float32(0.8)
    if rng.random() < 0.04:
        strokes = []
        for _ in range(rng.integers(1, 5)):
            side = rng.choice([0.06, 0.94])
            start = np.array([side * width, rng.uniform(0.1, 0.9) * height])
            path = wander(
                rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.3) * height, 1.5, 8
            )
            strokes.append((path, rng.uniform(0.02, 0.05) * height))
        ink = draw_strokes(shape, strokes) * smoothstep(-1.6, 0.4, smooth_noise(rng, shape, 30))
        colour = np.array([85, 60, 175], np.float32)
        picture += (ink * np.float32(0.85))[..., None] * (colour - picture)


def _ruler(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Ticks of a ruler along a slanting line near an edge, every fifth one longer."""
    height, width = shape
    corner = np.array([rng.choice([0.03, 0.97]) * width, rng.choice([0.04, 0.96]) * height])
    middle = np.array([width / 2, height / 2])
    along_x = rng.random() < 0.5
    heading = 0.0 if along_x else np.pi / 2
    heading += rng.uniform(-0.35, 0.35)
    direction = np.array([np.cos(heading), np.sin(heading)])
    direction *= np.sign(direction @ (middle - corner))
    tick = np.array([-direction[1], direction[0]])
    step, phase = rng.uniform(0.04, 0.09) * height, rng.integers(5)
    strokes = []
    for k in range(rng.integers(4, 22)):
        foot = corner + direction * step * k
        length = (0.07 if (k + phase) % 5 == 0 else 0.045) * height
        strokes.append((np.stack([foot - tick * length, foot + tick * length]), 0.006 * height))
    return draw_strokes(shape, strokes) * np.float32(0.85)


def _add_bubbles(rng: np.random.Generator, picture: np.ndarray) -> None:
    height, width = shape = picture.shape[:2]
    rims, lights = [], []
    turn = np.linspace(0, 2 * np.pi, 25)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    for _ in range(rng.integers(1, 9)):
        centre = np.array([rng.uniform(0, width), rng.uniform(0, height)])
        radius = rng.uniform(0.008, 0.04) * height
        rims.append((centre + radius * circle, 0.007 * height))
        arc = int(rng.integers(0, 18))
        lights.append((centre + 0.72 * radius * circle[arc : arc + 6], 0.012 * height))
    picture *= 1 - np.float32(0.13) * draw_strokes(shape, rims)[..., None]
    picture += (
        draw_strokes(shape, lights)[..., None] * (np.float32(250) - picture) * np.float32(0.6)
    )


def add_light(rng: np.random.Generator, picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Uneven light, a vignette or the round dark rim of a dermoscope, and a colour cast."""
    height, width = picture.shape[:2]
    aspect = width / height
    dx = x - np.float32(aspect / 2 + rng.normal(0, 0.04))
    dy = y - np.float32(0.5 + rng.normal(0, 0.04))
    r2 = dx * dx + dy * dy
    gain = np.float32(rng.normal(0, 0.06)) * dx + np.float32(rng.normal(0, 0.06)) * dy
    if rng.random() < 0.2:
        gain += np.float32(rng.uniform(0.02, 0.08)) * smooth_noise(rng, x.shape, 1)
    falloff = rng.uniform(0.0, 0.15) if rng.random() < 0.5 else rng.uniform(0.15, 0.6)
    # The middle is brighter by as much as the corners are darker: cameras expose for the whole.
    gain += np.float32(falloff) * (np.float32(0.15) - r2 ** np.float32(rng.uniform(1.0, 2.0)))
    picture *= np.exp(gain)[..., None]
    if rng.random() < 0.12:
        radius = rng.uniform(0.56, 0.8)
        soft = rng.uniform(0.005, 0.1)
        rim = smoothstep(radius - soft, radius + soft, np.sqrt(r2))
        dark = np.array([18, 12, 14], np.float32) * np.float32(rng.uniform(0.0, 2.0))
        picture += (rim * np.float32(rng.uniform(0.8, 1.0)))[..., None] * (dark - picture)
    picture *= np.exp(rng.normal(0, 0.035) + rng.normal(0, 0.025, 3)).astype(np.float32)


def expose(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Blur a little, add the sensor's noise and round to uint8."""
    height = picture.shape[0]
    sigma = rng.uniform(0.0008, 0.0038) * height
    if rng.random() < 0.08:
        sigma *= 2
    for channel in range(3):
        picture[..., channel] = ndimage.gaussian_filter(picture[..., channel], sigma, truncate=3.0)
    deviation = rng.uniform(0.3, 2.2)
    noise = rng.standard_normal(picture.shape, dtype=np.float32)
    picture += (
        np.float32(deviation) * (noise + 2 * noise.mean(axis=2, keepdims=True)) / np.float32(1.7)
    )
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
