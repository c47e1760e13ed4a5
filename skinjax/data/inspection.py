"""One example looked at in full: does it decode, does its mask fit, what does it look like."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from skinjax.data import images
from skinjax.data.findings import Finding
from skinjax.data.near_duplicates import make_hashes, make_thumbnail
from skinjax.data.sources.example import Example


@dataclass(frozen=True)
class Inspected:
    """What was seen of one example.

    Attributes:
      findings: What is wrong with it.
      digest: Of the image file's bytes.
      format: Of the image file, as Pillow names it; empty where it has no readable header.
      mode: Its colour mode, likewise.
      size: Height and width of the picture in pixels; None where it does not decode.
      lesion_fraction: The share of the mask that is lesion, 0 to 1; None without a usable mask.
    """

    findings: list[Finding] = field(default_factory=list)
    digest: bytes = b""
    format: str = ""
    mode: str = ""
    size: tuple[int, int] | None = None
    lesion_fraction: float | None = None


def inspect(
    example: Example, expects_mask: bool, max_pixels: int
) -> tuple[Inspected, tuple[np.ndarray, np.ndarray] | None]:
    """Reads an example's files and decodes them.

    Args:
      example: The example.
      expects_mask: Whether it is a finding that it has no mask.
      max_pixels: The largest height times width of a picture or mask that is read.

    Returns:
      What was seen; and what the picture is compared by, `make_thumbnail` and `make_hashes`, None
      where it does not decode.
    """
    findings: list[Finding] = []
    try:
        image_bytes, mask_bytes = example.load()
    except OSError as error:
        reason = error.strerror or str(error)
        return Inspected(
            [Finding(example.file_names, "file cannot be read", reason, stops=True)]
        ), None
    digest = hashlib.sha256(image_bytes).digest()
    file_format, mode = images.describe(image_bytes)
    image = None
    try:
        image = images.decode_image(image_bytes, example.image_name, max_pixels=max_pixels)
    except images.BrokenPicture as error:
        what = f"image: {error.kind}"
        findings.append(Finding(example.image_name, what, str(error), left_out=True))
    if mask_bytes is None and expects_mask:
        findings.append(Finding(example.image_name, "image has no mask", "", left_out=True))
    fraction = None
    if mask_bytes is not None:
        fraction = _inspect_mask(example, mask_bytes, image, max_pixels, findings)
    seen = Inspected(
        findings=findings,
        digest=digest,
        format=file_format,
        mode=mode,
        size=None if image is None else (image.shape[0], image.shape[1]),
        lesion_fraction=fraction,
    )
    if image is None:
        return seen, None
    thumbnail = make_thumbnail(image)
    return seen, (thumbnail, make_hashes(thumbnail))


def _inspect_mask(
    example: Example,
    data: bytes,
    image: np.ndarray | None,
    max_pixels: int,
    findings: list[Finding],
) -> float | None:
    """The share of lesion in a mask, 0 to 1; adds what is wrong with it."""
    name = example.mask_name or example.image_name
    try:
        mask = images.decode_mask(data, name, max_pixels=max_pixels)
    except images.BrokenPicture as error:
        what = error.kind if error.kind.startswith("mask") else f"mask: {error.kind}"
        findings.append(Finding(name, what, str(error), stops=True))
        return None
    if image is not None and not images.same_aspect(image.shape[:2], mask.shape):
        detail = (
            f"mask {mask.shape[1]} x {mask.shape[0]}, "
            f"image {image.shape[1]} x {image.shape[0]} pixels"
        )
        findings.append(Finding(name, "mask has another aspect ratio", detail, stops=True))
    fraction = float(mask.mean())
    if fraction in (0.0, 1.0):
        what = "mask is all background" if fraction == 0 else "mask is all lesion"
        size = f"{mask.shape[1]} x {mask.shape[0]} pixels"
        findings.append(Finding(name, what, size))
    return fraction
