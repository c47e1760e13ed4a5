"""The tone of the skin around a lesion, as the individual typology angle of a dermoscopic picture.

It is rough. Dermatoscopes are not calibrated to each other, cameras balance white by themselves,
gel and pressure blanch the skin, and polarised light shows other layers than the eye sees. The
angle compares groups of pictures; it is no skin type, and no statement about a person.
"""

import numpy as np
from scipy import ndimage

# Chardon, Cretois and Hourseau 1991 (Int J Cosmet Sci 13:191); Del Bino and Bernerd 2013 (Br J
# Dermatol 169 s3:33). In degrees, the lower end of each band.
_BANDS = (
    ("very light", 55.0),
    ("light", 41.0),
    ("intermediate", 28.0),
    ("tan", 10.0),
    ("brown", -30.0),
    ("dark", -90.0),
)
SKIN_TONES = tuple(name for name, _ in _BANDS)

_MARGIN = 0.05  # of the shorter side: the skin so near to the outline is still tinged by the lesion
_MIN_SHARE = 0.05  # of the picture that must be left to be looked at
# A dermatoscope's tube and the picture's dark corners; reflections of its lamp.
_DARKEST, _BRIGHTEST = 30, 250


def individual_typology_angle(image: np.ndarray, mask: np.ndarray) -> float | None:
    """The individual typology angle of the skin outside a lesion, in degrees; higher is lighter.

    The angle of the medians of L* and b* over the skin, arctan((L* - 50) / b*), as Bencevic et al.
    2025 (arXiv:2504.04494) found steadiest under changing light. Left out are the lesion with a
    margin, what is nearly black, and reflections; hairs are too few to move a median.

    Args:
      image: uint8 [h, w, 3], sRGB.
      mask: bool [h, w], true on the lesion.

    Returns:
      Degrees in -180..180; None where less than a twentieth of the picture is left to be looked at.

    Raises:
      ValueError: the mask has another size than the picture.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"the mask {mask.shape} has another size than the picture {image.shape}")
    brightest = image.max(2)
    skin = (brightest > _DARKEST) & (image.min(2) < _BRIGHTEST)
    if mask.any():
        skin &= ndimage.distance_transform_edt(~mask) > _MARGIN * min(mask.shape)
    if skin.mean() < _MIN_SHARE:
        return None
    lightness, _, yellowness = np.median(to_lab(image[skin]), axis=0)
    return float(np.degrees(np.arctan2(lightness - 50, yellowness)))


def skin_tone(angle: float) -> str:
    """The name of the band, one of SKIN_TONES, of an individual typology angle in degrees."""
    return next(name for name, lowest in _BANDS if angle > lowest or name == SKIN_TONES[-1])


def to_lab(colours: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* of sRGB colours, relative to the white of D65 (IEC 61966-2-1, CIE 15).

    Args:
      colours: uint8 [N, 3].

    Returns:
      float64 [N, 3]: L* in 0..100, a* and b*.
    """
    encoded = colours / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    # White is what the matrix makes of (1, 1, 1): a grey then has no colour at all.
    relative = linear @ to_xyz.T / to_xyz.sum(1)
    delta = 6 / 29
    f = np.where(relative > delta**3, np.cbrt(relative), relative / (3 * delta**2) + 4 / 29)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
