"""The sections of a report that tell of outlines."""

import numpy as np

from skinjax.modes.report_groups import groups_section
from skinjax.modes.reported import LEFT_OUT, Reported, estimate_text, known
from skinjax.report.gallery import extremes, outlined, spread
from skinjax.report.page import Bar, Bars, Block, Gallery, Picture, Plots, Section, Table, Text
from skinjax.report.run_figures import JACCARD_BINS, distances, jaccard_histogram, surface_dice
from skinjax.tasks.boundary import TOLERANCE
from skinjax.tasks.metrics import JACCARD_THRESHOLD
from skinjax.tasks.subgroups import Estimate, Figure, mean_estimate

_IN_A_BAR = 12  # pictures that a bar of the histogram opens to
_OF_ALL, _OF_A_CLASS = 4, 2  # worst, median and best pictures each


def mask_headline(run: Reported) -> str:
    """The run's scores in one sentence."""
    figures = run.evaluation.figures
    return (
        f"Jaccard {estimate_text(known(figures, 'jaccard'))}, Dice "
        f"{estimate_text(known(figures, 'dice'))}, pixel accuracy "
        f"{estimate_text(known(figures, 'accuracy'))}, where a mask of nothing but background has "
        f"{figures['background_accuracy']:.3f}"
    )


def mask_sections(run: Reported) -> list[Section]:
    """Scores, distributions, groups and gallery of an evaluation of outlines."""
    return [_scores(run), _jaccard(run), _boundary(run), _groups(run), _gallery(run)]


def _scores(run: Reported) -> Section:
    figures, lesion_ids = run.evaluation.figures, run.lesion_ids
    diagonal = "the picture's diagonal"

    def mean(name: str) -> Estimate:
        return mean_estimate(run.evaluation.numbers(name), lesion_ids)

    background = estimate_text(mean("background_accuracy"))
    rows = [
        ("Jaccard index", estimate_text(known(figures, "jaccard")), "near 0"),
        ("Dice coefficient", estimate_text(known(figures, "dice")), "near 0"),
        (
            f"thresholded Jaccard, 0 below {JACCARD_THRESHOLD}",
            estimate_text(mean("thresholded_jaccard")),
            "near 0",
        ),
        ("pixel accuracy", estimate_text(known(figures, "accuracy")), background),
        ("sensitivity", estimate_text(mean("sensitivity")), "0"),
        ("specificity", estimate_text(mean("specificity")), "1"),
        ("HD95, mean (pixels)", estimate_text(known(figures, "hd95")), diagonal),
        ("HD95, median (pixels)", f"{figures['hd95_median']:.1f}", diagonal),
        (
            f"surface Dice at {TOLERANCE:g} pixels",
            estimate_text(known(figures, "surface_dice")),
            "0",
        ),
        ("Jaccard over all pixels together", f"{figures['jaccard_pooled']:.3f}", "0"),
        ("Dice over all pixels together", f"{figures['dice_pooled']:.3f}", "0"),
    ]
    rule = (
        "Each image is scored by itself at its mask's own size, and the scores are averaged, as in "
        "the ISIC challenge. In brackets a 95% interval by a bootstrap over lesions, since the "
        "pictures of one lesion are not independent. An empty prediction of an empty truth scores "
        "1. The baseline is a mask of nothing but background."
    )
    return Section("scores", "Scores", [Text(rule), Table(("score", "value", "baseline"), rows)])


def _jaccard(run: Reported) -> Section:
    jaccard = run.evaluation.numbers("jaccard")
    ids = run.evaluation.column("image_id")
    places = np.minimum((jaccard * JACCARD_BINS).astype(int), JACCARD_BINS - 1)
    counts = np.bincount(places, minlength=JACCARD_BINS)
    bars = []
    for place in np.flatnonzero(counts):
        inside = np.flatnonzero(places == place)
        members = inside[np.argsort(jaccard[inside], kind="stable")].tolist()
        chosen = spread(members, _IN_A_BAR) if run.prepared else []
        bars.append(
            Bar(
                label=f"{place / JACCARD_BINS:.2f} to {(place + 1) / JACCARD_BINS:.2f}",
                count=len(members),
                share=len(members) / int(counts.max()),
                pictures=[_picture(run, position) for position in chosen],
                others=[ids[position] for position in members if position not in chosen],
            )
        )
    blocks: list[Block] = [
        Plots([jaccard_histogram(jaccard, JACCARD_THRESHOLD)]),
        Text("The images behind each bar: open one. " + _legend(run)),
        Bars(bars),
    ]
    return Section("jaccard", "Images by Jaccard index", blocks)


def _boundary(run: Reported) -> Section:
    rule = (
        "HD95 is the larger of the two 95th percentiles of the distances from one outline's pixels "
        "to the other outline, in pixels of the mask's own size; surface Dice the share of both "
        f"outlines' pixels that lie within {TOLERANCE:g} pixels of the other. Two empty masks have "
        "0 and 1; where one alone is empty, HD95 is the picture's diagonal and surface Dice 0. "
        "Pictures of different sizes have pixels of different sizes: compare within one data set."
    )
    plots = [
        distances(run.evaluation.numbers("hd95")),
        surface_dice(run.evaluation.numbers("surface_dice"), TOLERANCE),
    ]
    return Section("boundary", "Distance of the outlines", [Text(rule), Plots(plots)])


def _groups(run: Reported) -> Section:
    columns = {"Jaccard": "jaccard", "HD95": "hd95", "surface Dice": "surface_dice"}
    values = {title: run.evaluation.numbers(column) for title, column in columns.items()}
    lesion_ids = run.lesion_ids

    def score(positions: np.ndarray) -> dict[str, Figure]:
        lesions = [lesion_ids[position] for position in positions]
        return {name: mean_estimate(v[positions], lesions) for name, v in values.items()}

    return groups_section(run, run.evaluation.column("label"), score, "Jaccard")


def _gallery(run: Reported) -> Section:
    if run.prepared is None:
        return Section("gallery", "Gallery", [Text(_legend(run))])
    jaccard = run.evaluation.numbers("jaccard")
    labels = np.array(run.evaluation.column("label"), dtype=object)
    blocks: list[Block] = [Text(_legend(run))]
    everything = np.arange(len(jaccard))
    blocks.append(_extremes(run, "all images", everything, jaccard, _OF_ALL))
    for label in sorted(set(labels) - {""}):
        members = np.flatnonzero(labels == label)
        blocks.append(_extremes(run, label, members, jaccard, _OF_A_CLASS))
    return Section("gallery", "Gallery: the worst, the median, the best", blocks)


def _extremes(
    run: Reported, title: str, members: np.ndarray, jaccard: np.ndarray, num: int
) -> Gallery:
    pictures = [
        _picture(run, int(members[place]), f"{kind}: " if kind != "all" else "")
        for kind, places in extremes(jaccard[members], num).items()
        for place in places
    ]
    return Gallery(f"{title} ({len(members):,})", pictures)


def _picture(run: Reported, position: int, kind: str = "") -> Picture:
    row = run.evaluation.rows[position]
    image_id = row["image_id"]
    image, truth = run.picture(image_id)
    prediction = run.evaluation.mask(image_id)
    label = f" ({row['label']})" if row["label"] else ""
    score = f"Jaccard {float(row['jaccard']):.3f}"
    return Picture(
        outlined(image, np.zeros_like(prediction) if truth is None else truth, prediction),
        f"{kind}{image_id}{label}, {score}",
        f"{image_id}{label} with the true and the predicted outline, {score}",
    )


def _legend(run: Reported) -> str:
    if run.prepared is None:
        return LEFT_OUT
    return "Blue, solid: the true outline; yellow, dashed: the predicted one."
