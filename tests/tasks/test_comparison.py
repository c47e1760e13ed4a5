"""Paired differences against scikit-learn, image by image drawn anew."""

import numpy as np
import pytest
from sklearn import metrics

from skinjax.tasks.comparison import compare_classes, compare_scores
from skinjax.tasks.metrics import resample_lesions

CLASSES = ("bkl", "mel", "nv")


def make_images(num_lesions=40, seed=0):
    """Lesion ids, labels, and the probabilities of a weak and of a strong model."""
    rng = np.random.default_rng(seed)
    lesions = np.repeat(np.arange(num_lesions), rng.integers(1, 4, num_lesions))
    labels = (lesions * 7 // 3) % 3
    logits = rng.normal(size=(len(lesions), 3))
    models = []
    for strength in (0.5, 2.0):
        scores = np.exp(logits + strength * np.eye(3)[labels])
        models.append(scores / scores.sum(1, keepdims=True))
    return [f"l{lesion}" for lesion in lesions], labels, *models


def drawn_images(lesion_ids, num_resamples, seed):
    """The images of each draw, each as often as its lesion came."""
    for block in resample_lesions(lesion_ids, num_resamples, seed):
        for counts in block:
            yield np.repeat(np.arange(len(counts)), counts)


def test_differences_of_classes_are_scikit_learns():
    lesion_ids, labels, weak, strong = make_images()
    found = compare_classes(
        weak[None], strong[None], labels, lesion_ids, CLASSES, num_resamples=60, seed=3
    )

    def figures(images):
        values = []
        for model in (weak, strong):
            truth, scores = labels[images], model[images]
            values.append(
                {
                    "accuracy": metrics.accuracy_score(truth, scores.argmax(1)),
                    "balanced_accuracy": metrics.balanced_accuracy_score(truth, scores.argmax(1)),
                    "auroc": metrics.roc_auc_score(np.eye(3)[truth], scores, average="macro"),
                    "auroc/mel": metrics.roc_auc_score(truth == 1, scores[:, 1]),
                }
            )
        return values

    first, second = figures(np.arange(len(labels)))
    draws = [figures(images) for images in drawn_images(lesion_ids, 60, 3)]
    for name in first:
        assert found[name].first == pytest.approx(first[name])
        assert found[name].second == pytest.approx(second[name])
        differences = [b[name] - a[name] for a, b in draws]
        expected = np.percentile(differences, [2.5, 97.5])
        np.testing.assert_allclose([found[name].low, found[name].high], expected)
    assert found["auroc"].low > 0 and found["balanced_accuracy"].low > 0


def test_differences_of_scores_are_means_of_what_was_drawn():
    lesion_ids, _, weak, strong = make_images(seed=1)
    found = compare_scores(
        weak[None], strong[None], ("a", "b", "c"), lesion_ids, num_resamples=60, seed=5
    )
    for k, name in enumerate("abc"):
        difference = strong[:, k] - weak[:, k]
        draws = [difference[images].mean() for images in drawn_images(lesion_ids, 60, 5)]
        np.testing.assert_allclose(
            [found[name].first, found[name].second, found[name].low, found[name].high],
            [weak[:, k].mean(), strong[:, k].mean(), *np.percentile(draws, [2.5, 97.5])],
        )


def test_a_model_does_not_differ_from_itself():
    lesion_ids, labels, weak, _ = make_images()
    same = compare_classes(weak[None], weak[None], labels, lesion_ids, CLASSES, 50)
    for difference in same.values():
        assert difference.first == difference.second
        assert difference.low == difference.high == 0


def test_pairing_makes_the_interval_narrower_than_without():
    rng = np.random.default_rng(0)
    hard = rng.normal(size=(300, 1))
    first, second = hard[None], (hard + 0.1 + 0.01 * rng.normal(size=(300, 1)))[None]
    lesion_ids = [f"l{i}" for i in range(300)]
    paired = compare_scores(first, second, ("x",), lesion_ids)["x"]
    shuffled = compare_scores(first, rng.permutation(second, axis=1), ("x",), lesion_ids)["x"]
    assert paired.low > 0 > shuffled.low


def test_a_recipe_is_the_mean_of_its_runs_which_are_drawn_too():
    # Images that are all alike: what varies from draw to draw is which runs were drawn.
    first = np.broadcast_to(np.array([0.0, 0.3])[:, None, None], (2, 50, 1))
    second = np.full((1, 50, 1), 0.5)
    found = compare_scores(first, second, ("x",), [f"l{i}" for i in range(50)])["x"]
    assert (found.first, found.second) == pytest.approx((0.15, 0.5))
    # Both draws of a quarter of the resamples are the first run, of another quarter the second.
    assert (found.low, found.high) == pytest.approx((0.2, 0.5))


def test_an_interval_over_few_runs_has_the_bootstraps_share_of_their_variance():
    rng = np.random.default_rng(0)
    seeds = rng.normal(size=3)
    first = np.broadcast_to(seeds[:, None, None], (3, 20, 1))
    found = compare_scores(first, np.zeros((1, 20, 1)), ("x",), ["l"] * 20, 20000)["x"]
    # The mean of three draws of three values has a third of their variance (over 3, not 2).
    means = [np.mean(draw) for draw in np.array(np.meshgrid(*[seeds] * 3)).reshape(3, -1).T]
    assert np.std(means) == pytest.approx(np.std(seeds) / np.sqrt(3))
    expected = -np.percentile(np.tile(means, 1000), [97.5, 2.5])
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_what_does_not_fit_together_is_refused():
    lesion_ids, labels, weak, strong = make_images()
    with pytest.raises(ValueError, match="lesion ids"):
        compare_scores(weak[None], strong[None, 1:], ("a", "b", "c"), lesion_ids)
    with pytest.raises(ValueError, match="do not fit"):
        compare_classes(weak[None], strong[None, :, :2], labels, lesion_ids, CLASSES)
