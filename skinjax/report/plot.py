"""A figure for a page and for a paper: drawn once, kept as PNG, SVG and the numbers behind it."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_PAPER_DPI = 300


@dataclass(frozen=True)
class Plot:
    """One figure with its numbers.

    Attributes:
      name: of its files, without an ending.
      figure: as drawn.
      header: the columns of its numbers.
      rows: the numbers.
      caption: what stands below it.
      alt: what it shows, in words, for those who do not see it.
      wide: whether it must not be made narrower than it is to be read.
    """

    name: str
    figure: Figure
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str
    alt: str
    wide: bool = False

    kind = "plot"

    def write(self, folder: Path) -> None:
        """Writes NAME.png, NAME.svg and NAME.csv into a folder that exists."""
        self.figure.savefig(
            folder / f"{self.name}.png", dpi=_PAPER_DPI, metadata={"Software": None}
        )
        (folder / f"{self.name}.svg").write_text(self._svg, encoding="utf-8")
        (folder / f"{self.name}.csv").write_text(csv_text(self.header, self.rows), encoding="utf-8")

    @property
    def source(self) -> str:
        """The figure as a data URI of its SVG, for an <img>."""
        return "data:image/svg+xml;base64," + base64.b64encode(self._svg.encode()).decode()

    @cached_property
    def _svg(self) -> str:
        buffer = io.StringIO()
        # The names that an SVG's parts get come from this and not from chance, so that the same
        # numbers give the same file.
        with matplotlib.rc_context({"svg.hashsalt": "skinjax"}):
            # Without a date and a maker's line, which would differ and name an address.
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table as CSV; floats with six digits, None as nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
