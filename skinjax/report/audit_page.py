"""The page of an audit: one file that opens without a network, on a phone and in print."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from skinjax.report.page import render, small_jpeg

_MAX_ROWS = 8  # sizes and colour modes that are listed


@dataclass(frozen=True)
class FindingGroup:
    """The findings of one kind.

    Attributes:
      name: Of the kind.
      count: How many there are.
      stops: Whether they stop a training.
      first: The file and the detail of the first ones.
    """

    name: str
    count: int
    stops: bool
    first: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class AuditPage:
    """What the page shows.

    Attributes:
      facts: Of each data set, as `data.audit.facts` has them.
      lesion_fractions: Of each data set, the shares of lesion in its masks, 0 to 1.
      groups: The findings by kind, those that stop a training first.
      pairs: Pictures that come twice: two pictures uint8 [H, W, 3], and a caption.
      pictures: Others to look at: a picture uint8 [H, W, 3], and a caption.
      threshold: The correlation from which two pictures count as the same.
      date: To be printed.
    """

    facts: Sequence[Mapping[str, Any]]
    lesion_fractions: Sequence[Sequence[float]]
    groups: Sequence[FindingGroup]
    threshold: float
    date: str
    pairs: Sequence[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)
    pictures: Sequence[tuple[np.ndarray, str]] = field(default_factory=list)


def render_audit(page: AuditPage) -> str:
    """Renders the page as HTML, with every picture and style in it."""
    stopping = [group for group in page.groups if group.stops]
    return render(
        "audit.html",
        title=", ".join(str(facts["dataset"]) for facts in page.facts),
        date=page.date,
        num_stops=sum(group.count for group in stopping),
        stopping=[f"{group.name} ({group.count:,})" for group in stopping],
        sets=[
            _set(facts, fractions)
            for facts, fractions in zip(page.facts, page.lesion_fractions, strict=True)
        ],
        groups=page.groups,
        threshold=page.threshold,
        pairs=[
            {
                "first": small_jpeg(first),
                "second": small_jpeg(second),
                "first_alt": f"one of a pair: {caption}",
                "second_alt": f"the other of the pair: {caption}",
                "caption": caption,
            }
            for first, second, caption in page.pairs
        ],
        pictures=[
            {"image": small_jpeg(image), "caption": caption} for image, caption in page.pictures
        ],
    )


def _set(facts: Mapping[str, Any], fractions: Sequence[float]) -> dict[str, Any]:
    """What the template is told of one data set."""
    key = "random_split_leak"
    leaks = {
        name.removeprefix(key).removeprefix("/"): share
        for name, share in facts.items()
        if name.startswith(key)
    }
    columns = [_first_rows(facts[name]) for name in ("sizes", "modes")]
    num_rows = max(len(rows) for rows in columns)
    padded = [rows + [("", "")] * (num_rows - len(rows)) for rows in columns]
    plot, plot_alt = _lesion_plot(fractions) if fractions else ("", "")
    return {
        "facts": facts,
        "leaks": leaks,
        "largest": max(facts["classes"].values(), default=1),
        "files": list(zip(*padded, strict=True)),
        "plot": plot,
        "plot_alt": plot_alt,
    }


def _first_rows(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """The most frequent names, and one line for all the others."""
    rows = [(name, f"{count:,}") for name, count in list(counts.items())[:_MAX_ROWS]]
    others = list(counts.values())[_MAX_ROWS:]
    if others:
        rows.append((f"{len(others)} others", f"{sum(others):,}"))
    return rows


def _lesion_plot(fractions: Sequence[float]) -> tuple[str, str]:
    """A histogram of the share of lesion in the masks as a PNG, and what it shows in words."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axis = figure.subplots()
    axis.hist(fractions, bins=40, range=(0, 1), color="#0072b2")
    axis.set_xlabel("share of the picture that is lesion")
    axis.set_ylabel("masks")
    axis.set_xlim(0, 1)
    axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, metadata={"Software": None})
    low, middle, high = np.percentile(fractions, [5, 50, 95])
    words = (
        f"Histogram of the share of lesion in {len(fractions):,} masks: median {middle:.0%}, "
        f"nine in ten between {low:.0%} and {high:.0%}"
    )
    return base64.b64encode(buffer.getvalue()).decode(), words
