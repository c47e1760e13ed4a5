"""What the pages are made of: their template, and the blocks that a section may hold.

A page is one file that opens without a network, on a phone and in print: styles and pictures are in
it, and there is no script.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from skinjax import __version__
from skinjax.report.plot import Plot

NO_VALUE = "\N{EN DASH}"  # of a cell of a table

_THUMBNAIL = 220  # pixels of the longer side


@dataclass(frozen=True)
class Text:
    """A paragraph; `soft` where it is said beside the matter, and `items` stand below as a list."""

    text: str
    soft: bool = False
    items: Sequence[str] = ()
    kind = "text"


@dataclass(frozen=True)
class Facts:
    """Terms and what is to be said of each."""

    rows: Sequence[tuple[str, str]]
    kind = "facts"


@dataclass(frozen=True)
class Link:
    """A cell of a table that leads to a section of the page."""

    text: str
    section: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      header: its columns.
      rows: their cells.
      title: what stands above it.
      text_columns: how many columns from the left are words; the others are numbers.
      wrap: whether its words may be broken into lines.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    title: str = ""
    text_columns: int = 1
    wrap: bool = False
    kind = "table"


@dataclass(frozen=True)
class Plots:
    """Figures side by side, where there is room."""

    plots: Sequence[Plot]
    kind = "plots"


@dataclass(frozen=True)
class Picture:
    """A photograph: uint8 [H, W, 3], what stands below it, and what it shows in words."""

    image: np.ndarray
    caption: str
    alt: str

    @property
    def source(self) -> str:
        """The picture as a data URI of a small JPEG."""
        return "data:image/jpeg;base64," + small_jpeg(self.image)


@dataclass(frozen=True)
class Gallery:
    """Photographs under a title."""

    title: str
    pictures: Sequence[Picture]
    kind = "gallery"


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram that opens, and what is behind it.

    Attributes:
      label: what the bar is of.
      count: how many images it has.
      share: of the longest bar's.
      pictures: of those images.
      others: names of those that have no picture here.
    """

    label: str
    count: int
    share: float
    pictures: Sequence[Picture]
    others: Sequence[str]


@dataclass(frozen=True)
class Bars:
    """A histogram whose bars open."""

    bars: Sequence[Bar]
    kind = "bars"


@dataclass(frozen=True)
class Listing:
    """Text of a machine, folded away under a line."""

    summary: str
    text: str
    kind = "listing"


Block = Text | Facts | Table | Plots | Gallery | Bars | Listing


@dataclass(frozen=True)
class Section:
    """A section of a page; `name` is what links lead to."""

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=list)


def render(template: str, **values: Any) -> str:
    """Renders a template of templates/ as HTML; what it is given is escaped.

    Args:
      template: its file name.
      **values: what it needs; the version of skinjax is given to all.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=__version__, **values)


def small_jpeg(image: np.ndarray) -> str:
    """A small JPEG of a picture, uint8 [H, W, 3], in base64."""
    small = Image.fromarray(image)
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
