"""The sections of a report that tell of groups: who is in the data, and how each group fares."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from skinjax.modes.evaluations import Evaluation
from skinjax.modes.reported import Reported, estimate_text
from skinjax.report.page import NO_VALUE, Block, Plots, Section, Table, Text
from skinjax.report.run_figures import Point, forest
from skinjax.tasks.metrics import MIN_LESIONS
from skinjax.tasks.skin_tone import SKIN_TONES, skin_tone
from skinjax.tasks.subgroups import (
    AGE_BANDS,
    NOT_TOLD,
    Estimate,
    Figure,
    Subgroup,
    age_band,
    subgroups,
)

# What the data sets call what scores are told by.
COLUMNS = {
    "age": ("age", "age_approx", "age_approximate"),
    "sex": ("sex", "gender"),
    "site": ("localization", "anatom_site_general", "anatom_site_general_challenge", "location"),
    "confirmation": ("dx_type", "diagnosis_confirm_type"),
}
_UNKNOWN = ("unknown", "na", "n/a", "nan", "none")
_SKIN_CAVEAT = (
    "Skin tone is the individual typology angle (ITA) of the skin outside the true outline, in the "
    "usual bands: above 55 degrees very light, 41 light, 28 intermediate, 10 tan, -30 brown. "
    "From dermoscopy it is rough: dermatoscopes and cameras are not calibrated to each other, "
    "white is balanced by the camera, gel and pressure blanch the skin, the dim rim of a picture "
    "counts as darker skin where it is wide, and where colours run to pink or blue, as in many "
    "pictures of HAM10000, nearly all skin is very light by this measure. It compares pictures; it "
    "is no skin type and says nothing of a person's origin. Two pictures of one person may fall "
    "into two bands."
)

# A factor, the group of each image, and the order of the groups.
Factor = tuple[str, list[str], list[str]]


def factors(evaluation: Evaluation, labels: Sequence[str]) -> list[Factor]:
    """What scores are told by, as far as the data tell it.

    Args:
        evaluation: whose table has metadata.
        labels: the diagnosis of each image; empty where there is none.
    """
    tones = [skin_tone(float(angle)) if angle else "" for angle in evaluation.column("ita")]
    found: list[Factor] = [
        ("diagnosis", list(labels), sorted({*labels} - {""})),
        ("age", [age_band(age) for age in evaluation.column(*COLUMNS["age"])], [*AGE_BANDS]),
        ("sex", _told(evaluation.column(*COLUMNS["sex"])), []),
        ("site", _told(evaluation.column(*COLUMNS["site"])), []),
        ("confirmation", _told(evaluation.column(*COLUMNS["confirmation"])), []),
        ("skin tone", tones, [*SKIN_TONES]),
    ]
    return [factor for factor in found if {*factor[1]} - {"", NOT_TOLD}]


def groups_section(
    run: Reported,
    labels: Sequence[str],
    score: Callable[[np.ndarray], dict[str, Figure]],
    figure: str,
    notes: Sequence[str] = (),
) -> Section:
    """How each group of images fares.

    Args:
        run: that is reported.
        labels: the diagnosis of each image; empty where there is none.
        score: the figures of the images at some positions, int [n].
        figure: the one that is drawn.
        notes: on the figures.
    """
    told = factors(run.evaluation, labels)
    missing = [
        factor
        for factor in ("diagnosis", "age", "sex", "site", "confirmation", "skin tone")
        if factor not in {name for name, _, _ in told}
    ]
    words = (
        "In brackets a 95% interval by a bootstrap over lesions; groups of fewer than "
        f"{MIN_LESIONS} lesions have none. Groups differ in more than their name: a difference "
        "between two of them is no cause, and of many groups some differ by chance."
    )
    blocks: list[Block] = [Text(words), *(Text(note) for note in notes)]
    if missing:
        blocks.append(Text(f"The data do not tell: {', '.join(missing)}.", soft=True))
    tables: list[Block] = []
    drawn: list[tuple[str, list[Point]]] = []
    for factor, groups, order in told:
        scored = subgroups(groups, order, run.lesion_ids, score)
        if factor == "skin tone":
            tables.append(Text(_SKIN_CAVEAT))
        tables.append(_group_table(factor, scored))
        drawn.append((factor, _points(scored, figure)))
    overall = score(np.arange(len(run.lesion_ids)))[figure]
    if isinstance(overall, Estimate) and drawn:
        blocks.append(Plots([forest(drawn, overall.value, figure, "groups")]))
    return Section("groups", "Scores by group", [*blocks, *tables])


def people_section(parts: Mapping[str, Sequence[Mapping[str, str]]]) -> Section | None:
    """Who is in each part of the data, as far as it is told; None where nothing is.

    Args:
        parts: what the data set says of each picture, by part.
    """
    rows = []
    for part, pictures in parts.items():
        ages = [float(age) for age in _values(pictures, "age") if age_band(age) != NOT_TOLD]
        quartiles = NO_VALUE
        if ages:
            low, middle, high = (math.floor(q) for q in np.percentile(ages, [25, 50, 75]))
            quartiles = f"{middle} ({low} to {high})"
        sexes = _values(pictures, "sex")
        proofs = _values(pictures, "confirmation")
        rows.append(
            [
                part,
                f"{len(pictures):,}",
                quartiles,
                f"{len(ages):,}",
                _share(sexes, "female"),
                f"{len(sexes):,}",
                _share(proofs, "histo"),
                f"{len(proofs):,}",
            ]
        )
    if all(row[3] == row[5] == row[7] == "0" for row in rows):
        return None
    header = (
        "part",
        "images",
        "age, median (quartiles)",
        "age told",
        "female",
        "sex told",
        "histology",
        "confirmation told",
    )
    return Section("people", "Who is in the data", [Table(header, rows)])


def _group_table(factor: str, groups: Sequence[Subgroup]) -> Table:
    names = list(groups[0].figures)
    return Table(
        (factor, "images", "lesions", *names),
        [
            [
                group.name,
                f"{group.num_images:,}",
                f"{group.num_lesions:,}",
                *(estimate_text(group.figures[name]) for name in names),
            ]
            for group in groups
        ],
        title=f"By {factor}",
    )


def _points(groups: Sequence[Subgroup], figure: str) -> list[Point]:
    """The groups' values of one figure, to be drawn; those without one are left out."""
    points: list[Point] = []
    for group in groups:
        if isinstance(estimate := group.figures[figure], Estimate):
            point = estimate.value, estimate.low, estimate.high
            points.append((group.name, group.num_images, *point))
    return points


def _told(values: Sequence[str]) -> list[str]:
    """Values of a table, where 'unknown' and the like are nothing."""
    return ["" if value.strip().lower() in _UNKNOWN else value.strip() for value in values]


def _values(pictures: Sequence[Mapping[str, str]], factor: str) -> list[str]:
    """What is told of a factor, by those pictures of which it is."""
    values = [
        next((picture[name] for name in COLUMNS[factor] if picture.get(name)), "")
        for picture in pictures
    ]
    return [value for value in _told(values) if value]


def _share(values: Sequence[str], beginning: str) -> str:
    """The share of values that begin so: HAM10000 says histo, other sets histopathology."""
    if not values:
        return NO_VALUE
    return f"{sum(value.lower().startswith(beginning) for value in values) / len(values):.0%}"
