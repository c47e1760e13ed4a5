"""The pages' style sheet and blocks, the checklists, and the files of a figure."""

import csv
import itertools
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from skinjax.report.checklists import ANSWERED, AUTHORS, IN_PART, ITEMS, checklist_table
from skinjax.report.gallery import extremes, outlined, spread
from skinjax.report.page import (
    Bar,
    Bars,
    Gallery,
    Link,
    Picture,
    Section,
    Table,
    Text,
    render,
)
from skinjax.report.plot import Plot

# The parts of TRIPOD+AI's items, as its table has them.
_PARTS = {3: "abc", 5: "ab", 6: "abc", 8: "abc", 9: "abc", 12: "abcdefg", 18: "abcdef"}
_PARTS |= {20: "abc", 23: "ab", 27: "abc"}


def render_report(sections):
    return render("report.html", title="T", date="D", warning="W", headline="H", sections=sections)


def luminance(colour):
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_contrast_formula():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)


def test_text_stands_out_from_every_ground():
    """WCAG 2's 4.5 to 1 for text, 3 to 1 for what is drawn, from the style sheet itself."""
    style = re.search(r"<style>(.*?)</style>", render_report([]), re.S)[1]
    colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", style))
    texts = set(re.findall(r"[{;\s]color: var\(--([a-z]+)\)", style))
    grounds = set(re.findall(r"background: var\(--([a-z]+)\)", style)) - {"bar"}
    assert {"ink", "soft", "stop", "fine", "link"} <= texts and {"ground", "band"} <= grounds
    # No colour is said outside the list at the top.
    assert not re.findall(r"(?<!-)color: (?!var)", style.split("}", 1)[1])
    for text, ground in itertools.product(texts, grounds):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["bar"], colours["ground"]) >= 3


def test_every_item_of_both_checklists_is_told_once():
    claim = [item for entry in ITEMS for item in entry.claim]
    assert sorted(claim, key=int) == [str(number) for number in range(1, 45)]
    tripod = [item for entry in ITEMS for item in entry.tripod]
    expected = [f"{n}{part}" for n in range(1, 28) for part in _PARTS.get(n, " ")]
    assert sorted(tripod) == sorted(text.strip() for text in expected)
    assert len(tripod) == 52


def test_what_the_page_lacks_is_left_to_the_authors():
    everything = {name for entry in ITEMS for name in entry.sections}

    def told(sections):
        cells = [row[3] for row in checklist_table({name: name for name in sections}).rows]
        return [cell.text if isinstance(cell, Link) else cell for cell in cells]

    assert {*told(everything)} == {ANSWERED, IN_PART, AUTHORS}
    assert {*told(())} == {AUTHORS}
    assert told(everything).count(ANSWERED) > told(everything - {"people"}).count(ANSWERED)


def test_what_a_section_holds_is_escaped_and_has_its_words():
    picture = Picture(np.full((30, 40, 3), 90, np.uint8), "cap", 'an "alt" <b>')
    blocks = [
        Text("a < b", items=["one"]),
        Table(("x", "y"), [["1", Link("there", "s")]], title="a table"),
        Gallery("g", [picture]),
        Bars([Bar("0.1 to 0.2", 3, 0.5, [picture], ["ISIC_1"])]),
    ]
    page = render_report([Section("s", "Title & all", blocks)])
    assert "a &lt; b" in page and "Title &amp; all" in page and "<b>" not in page
    assert '<a href="#s">there</a>' in page and '<section id="s">' in page
    assert page.count("<img") == page.count("alt=") == 2
    assert "width: 50.00%" in page and "not drawn: ISIC_1" in page


@pytest.mark.parametrize("num", range(1, 12))
def test_extremes_are_in_order_and_none_is_twice(num):
    scores = np.random.default_rng(num).permutation(num) / num
    chosen = [place for places in extremes(scores, 2).values() for place in places]
    assert len(set(chosen)) == len(chosen) == min(num, 6) // 3 * 3 or num < 3
    assert np.all(np.diff(scores[chosen]) > 0)
    if num >= 3:
        assert scores[chosen[0]] == scores.min() and scores[chosen[-1]] == scores.max()
    assert list(extremes(scores, 2)) == (["worst", "median", "best"] if num >= 3 else ["all"])


def test_pictures_are_spread_from_first_to_last():
    assert spread([4, 5, 6], 12) == [4, 5, 6]
    chosen = spread(list(range(100)), 12)
    assert len(set(chosen)) == 12 and chosen[0] == 0 and chosen[-1] == 99


def test_outlines_are_drawn_where_the_masks_end():
    image = np.full((50, 60, 3), 128, np.uint8)
    truth, prediction = np.zeros((100, 120), bool), np.zeros((100, 120), bool)
    truth[20:60, 20:60] = True
    drawn = outlined(image, truth, prediction)
    assert drawn.shape == (183, 220, 3)
    blue = np.all(drawn == (86, 180, 233), axis=2)
    rows, columns = np.flatnonzero(blue.any(1)), np.flatnonzero(blue.any(0))
    scale = 220 / 120
    assert abs(rows[0] - 20 * scale) <= 1 and abs(rows[-1] - 60 * scale) <= 2
    assert abs(columns[0] - 20 * scale) <= 1 and abs(columns[-1] - 60 * scale) <= 2
    assert not blue[45:100, 45:100].any()
    prediction[:] = True
    yellow = np.all(outlined(image, truth, prediction) == (240, 228, 66), axis=2)
    assert yellow[0].mean() > 0.5 and yellow[-1].mean() > 0.5  # dashes along the frame


def test_a_figure_has_three_files_that_are_the_same_each_time(tmp_path):
    def draw():
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([1, 2], [0.5, 0.25])
        return Plot("line", figure, ("x", "y"), [(1, 0.5), (2, 1 / 3), (3, None)], "cap", "alt")

    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        draw().write(folder)
        assert sorted(p.name for p in folder.iterdir()) == ["line.csv", "line.png", "line.svg"]
    for name in ("line.csv", "line.png", "line.svg"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    with (folders[0] / "line.csv").open() as file:
        assert list(csv.reader(file)) == [["x", "y"], ["1", "0.5"], ["2", "0.333333"], ["3", ""]]
    with Image.open(folders[0] / "line.png") as image:
        assert image.size == (900, 600) and set(image.info) <= {"dpi"}
    svg = (folders[0] / "line.svg").read_text()
    assert str(tmp_path) not in svg and "date" not in svg.lower()
