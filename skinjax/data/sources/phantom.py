"""The built-in data set: generated dermoscopy-like pictures with exact masks and classes.

A picture is a function of seed and index alone, so nothing is stored or downloaded. Skin tones,
lesion sizes and optical densities follow what was measured on HAM10000 (Tschandl, Rosendahl and
Kittler, Sci Data 5:180161, 2018).
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
from PIL import Image

from skinjax.data.sources.example import CLASSES, Example
from skinjax.data.sources.phantom_lesion import RECIPES, Canvas, draw_side, paint_lesion
from skinjax.data.sources.phantom_outline import draw_outline
from skinjax.data.sources.phantom_scene import (
    add_hairs,
    add_light,
    add_marks,
    draw_skin_tone,
    expose,
    paint_bystanders,
    paint_skin,
)
from skinjax.errors import UserError

# The shares of HAM10000's classes among lesions, the two rarest raised to 2%, so that each block of
# pictures has every class.
_SHARES = {
    "akiec": 0.035,
    "bcc": 0.05,
    "bkl": 0.105,
    "df": 0.02,
    "mel": 0.11,
    "nv": 0.66,
    "vasc": 0.02,
}
_BLOCK = 100  # pictures whose lesions and classes are dealt out together
_SITES = ("back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "foot")
_AGES = {"akiec": 67, "bcc": 67, "bkl": 64, "df": 51, "mel": 61, "nv": 47, "vasc": 51}
_PROOFS = {"akiec": 1.0, "bcc": 1.0, "bkl": 0.7, "df": 0.5, "mel": 1.0, "nv": 0.2, "vasc": 0.2}


@lru_cache(maxsize=256)
def _deal(seed: int, block: int) -> tuple[tuple[int, str], ...]:
    """For each picture of a block: the index of its lesion's first picture, and the class."""
    rng = np.random.default_rng([seed, 0, block])
    firsts: list[int] = []
    # As in HAM10000: about three lesions in four have one picture, the others two or three.
    while len(firsts) < _BLOCK:
        views = int(rng.choice([1, 2, 3], p=[0.74, 0.19, 0.07]))
        firsts += [len(firsts)] * min(views, _BLOCK - len(firsts))
    lesions = sorted(set(firsts))
    # Systematic sampling: every class gets its share of the lesions to within one.
    marks = (np.arange(len(lesions)) + rng.random()) / len(lesions)
    classes = np.searchsorted(np.cumsum([_SHARES[name] for name in CLASSES])[:-1], marks)
    label = dict(zip(lesions, rng.permutation(classes), strict=True))
    return tuple((block * _BLOCK + first, CLASSES[label[first]]) for first in firsts)


def _lesion_of(seed: int, index: int) -> tuple[int, str]:
    block, place = divmod(index, _BLOCK)
    return _deal(seed, block)[place]


def render(
    seed: int, index: int, height: int = 150, width: int = 200
) -> tuple[np.ndarray, np.ndarray, str]:
    """Draw picture `index` of the phantom with this seed.

    The same seed and index show the same lesion, in the same place, at any size; only small dots
    may fall elsewhere. Pictures of one lesion share its shape, colours and skin and differ in pose,
    light, hairs and marks.

    Returns:
      The image, uint8 `[H, W, 3]`, RGB; its mask, uint8 `[H, W]`, 1 on the lesion and 0 elsewhere;
      the class.

    Raises:
      UserError: The picture is to be smaller than 32 pixels a side.
    """
    if min(height, width) < 32:
        raise UserError(
            f"A phantom of {height} x {width} pixels is too small: ask for at least 32 x 32."
        )
    lesion, label = _lesion_of(seed, index)
    person = np.random.default_rng([seed, 1, lesion])
    view = np.random.default_rng([seed, 2, index])

    tone = draw_skin_tone(person, label)
    outline = draw_outline(person, RECIPES[label].irregularity)
    side = draw_side(person, label) * np.exp(view.normal(0, 0.08))
    pixels = side * np.sqrt(height * width / np.pi)
    canvas = paint_lesion(person, label, outline, pixels)

    # Large lesions fill the frame and cannot be off the middle by as much.
    wander = np.clip(1.15 - side, 0.25, 1.0)
    middle = (
        width * np.clip(0.49 + view.normal(0, 0.065) * wander, 0.2, 0.8),
        height * np.clip(0.49 + view.normal(0, 0.08) * wander, 0.2, 0.8),
    )
    # On HAM10000 the long axis of most lesions lies along that of the picture.
    turn = view.normal(0, 0.7) + np.pi * view.integers(2)
    depth, density, veil = _place(canvas, middle, turn, pixels, height, width)

    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(height)
    skin = paint_skin(view, tone, label, x, y)
    if view.random() < 0.3:
        skin += paint_bystanders(view, x, y)
    picture = tone * np.exp(-density - skin)
    picture += veil[..., None] * (canvas.veil_colour - picture)
    add_hairs(view, picture)
    add_marks(view, picture)
    add_light(view, picture, x, y)
    return expose(view, picture), (depth > 0).astype(np.uint8), label


def _place(
    canvas: Canvas, middle: tuple[float, float], turn: float, pixels: float, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lesion's depth `[H, W]`, density `[H, W, 3]` and veil `[H, W]`, put into a picture.

    `middle` is (x, y) in pixels, `turn` in radians; `pixels` is the length of the lesion's unit.
    """
    size = canvas.depth.shape[0]
    zoom = size / (2 * canvas.extent) / pixels
    cos, sin = np.cos(turn) * zoom, np.sin(turn) * zoom
    # Output pixel centres to canvas pixel centres, as Pillow's affine transform counts them.
    matrix = (
        cos, sin, size / 2 - cos * middle[0] - sin * middle[1],
        -sin, cos, size / 2 + sin * middle[0] - cos * middle[1],
    )  # fmt: skip

    def warp(field: np.ndarray, outside: float) -> np.ndarray:
        source = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
        warped = source.transform(
            (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR,
            fillcolor=outside,
        )  # fmt: skip
        return np.asarray(warped)

    density = np.stack([warp(canvas.density[..., k], 0.0) for k in range(3)], axis=2)
    return warp(canvas.depth, -1.0), density, warp(canvas.veil, 0.0)


def _encode(seed: int, index: int, height: int, width: int) -> tuple[bytes, bytes]:
    image, mask, _ = render(seed, index, height, width)
    image_file, mask_file = io.BytesIO(), io.BytesIO()
    Image.fromarray(image).save(image_file, "JPEG", quality=92)
    Image.fromarray(mask * np.uint8(255)).save(mask_file, "PNG")
    return image_file.getvalue(), mask_file.getvalue()


@dataclass(frozen=True)
class PhantomSource:
    """The phantom as a data set of `num_images` pictures, `height` by `width` pixels each."""

    num_images: int = 800
    seed: int = 0
    height: int = 150
    width: int = 200
    name: str = field(default="phantom", init=False)
    classes: tuple[str, ...] = field(default=CLASSES, init=False)
    has_lesion_ids: bool = field(default=True, init=False)
    lesion_ids_mend: str | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be drawn."""
        if self.num_images < 1:
            raise UserError(f"num_images is {self.num_images}: a phantom needs at least 1 image.")
        if min(self.height, self.width) < 32:
            raise UserError(
                f"A phantom of {self.height} x {self.width} pixels is too small: "
                "ask for at least 32 x 32."
            )
        if self.seed < 0:
            raise UserError(f"The phantom's seed is {self.seed}: it must not be negative.")

    @property
    def notes(self) -> list[str]:
        """Nothing is ever left out of a phantom."""
        return []

    @property
    def missing(self) -> list[tuple[str, str]]:
        """Nothing is ever left out of a phantom."""
        return []

    def fingerprint(self) -> str:
        """A digest of the parameters; that of the code is added by who prepares the records."""
        parameters = f"phantom {self.num_images} {self.seed} {self.height} {self.width}"
        return hashlib.sha256(parameters.encode()).hexdigest()

    def examples(self) -> Sequence[Example]:
        """All examples in order; a picture is only drawn when its `load` is called."""
        return [self._example(index) for index in range(self.num_images)]

    def _example(self, index: int) -> Example:
        lesion, label = _lesion_of(self.seed, index)
        image_id = f"phantom_{index:06d}"
        rng = np.random.default_rng([self.seed, 3, lesion])
        age = int(np.clip(5 * round(rng.normal(_AGES[label], 14) / 5), 5, 85))
        return Example(
            image_id=image_id,
            load=partial(_encode, self.seed, index, self.height, self.width),
            image_name=f"{image_id}.jpg (seed {self.seed})",
            mask_name=f"{image_id}_segmentation.png (seed {self.seed})",
            lesion_id=f"phantom_lesion_{lesion:06d}",
            label=label,
            metadata={
                "dx_type": "histo" if rng.random() < _PROOFS[label] else "follow_up",
                "age": f"{age:.1f}",
                "sex": str(rng.choice(["male", "female"], p=[0.54, 0.46])),
                "localization": str(rng.choice(_SITES)),
            },
        )
