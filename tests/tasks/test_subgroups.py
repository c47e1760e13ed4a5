"""Groups of images: each is scored by itself, with an interval where it has lesions enough."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from skinjax.tasks.subgroups import (
    AGE_BANDS,
    NOT_TOLD,
    Estimate,
    age_band,
    auroc_estimate,
    mean_estimate,
    subgroups,
)


@pytest.mark.parametrize(
    "age, band",
    [
        ("0", "under 30"),
        ("29.9", "under 30"),
        ("30.0", "30 to 44"),
        ("75", "75 and over"),
        ("", NOT_TOLD),
        ("unknown", NOT_TOLD),
        ("nan", NOT_TOLD),
        ("-5", NOT_TOLD),
    ],
)
def test_bands_of_age(age, band):
    assert age_band(age) == band
    assert band in (*AGE_BANDS, NOT_TOLD)


def test_each_group_is_scored_by_itself_in_order():
    groups = ["b", "", "a", "c", "b", "c", "c"]
    values = np.arange(7.0)
    found = subgroups(
        groups,
        ["a"],
        ["1", "2", "3", "4", "1", "5", "6"],
        lambda positions: {"mean": Estimate(float(values[positions].mean()))},
    )
    told = [(g.name, g.num_images, g.num_lesions, g.figures["mean"].value) for g in found]
    assert told == [("a", 1, 1, 2), ("c", 3, 3, 14 / 3), ("b", 2, 1, 2), (NOT_TOLD, 1, 1, 1)]


def test_an_interval_holds_its_mean_and_widens_where_lesions_repeat():
    values = np.random.default_rng(0).random(40)
    apart = mean_estimate(values, [str(i) for i in range(40)])
    together = mean_estimate(np.repeat(values[:20], 2), [str(i // 2) for i in range(40)])
    assert apart.low < apart.value < apart.high
    assert together.high - together.low > 1.2 * (apart.high - apart.low)


def test_few_lesions_have_no_interval():
    assert mean_estimate(np.arange(9.0), [str(i) for i in range(9)]) == Estimate(4)
    assert mean_estimate(np.arange(30.0), [str(i % 9) for i in range(30)]).low is None


def test_the_auroc_is_scikit_learns():
    generator = np.random.default_rng(1)
    positive = generator.random(80) < 0.4
    scores = np.round(generator.random(80) + 0.3 * positive, 1)
    lesions = [str(i) for i in range(80)]
    estimate = auroc_estimate(scores, positive, lesions)
    assert estimate.value == pytest.approx(roc_auc_score(positive, scores))
    assert estimate.low < estimate.value < estimate.high
    assert auroc_estimate(scores, np.ones(80, bool), lesions) is None
    few = np.arange(80) < 5
    estimate = auroc_estimate(scores, few, lesions)
    assert estimate.value == pytest.approx(roc_auc_score(few, scores)) and estimate.low is None
