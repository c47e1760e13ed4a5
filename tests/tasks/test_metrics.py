"""Segmentation figures against scikit-learn, and the bootstrap against what is known of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from references import bootstrap_over_lesions
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, recall_score

from skinjax.tasks.metrics import (
    COUNTS,
    MASK_HEADLINES,
    SCORES,
    bootstrap_means,
    divide_sums,
    interval,
    mask_sums,
    resample_lesions,
    score_mask,
    summarise_masks,
)

masks_of_any_share = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(
    lambda shape: st.tuples(*2 * [hnp.arrays(np.bool_, shape)])
)


@settings(max_examples=200, deadline=None)
@given(masks_of_any_share)
def test_score_mask_against_scikit_learn(pair):
    truth, prediction = pair
    score = score_mask(truth, prediction)
    t, p = truth.ravel(), prediction.ravel()
    jaccard = jaccard_score(t, p, zero_division=1)
    expected = {
        "jaccard": jaccard,
        "dice": f1_score(t, p, zero_division=1),
        "thresholded_jaccard": jaccard if jaccard >= 0.65 else 0,
        "accuracy": accuracy_score(t, p),
        "sensitivity": recall_score(t, p, zero_division=1),
        "specificity": recall_score(t, p, pos_label=0, zero_division=1),
        "background_accuracy": accuracy_score(t, np.zeros_like(t)),
        "tp": np.sum(t & p),
        "fp": np.sum(~t & p),
        "fn": np.sum(t & ~p),
        "tn": np.sum(~t & ~p),
    }
    assert score.keys() == expected.keys()
    for name, value in expected.items():
        assert score[name] == pytest.approx(value, abs=1e-12), name


def test_the_challenges_rules_for_empty_and_full_masks():
    empty, full = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    both_empty = score_mask(empty, empty)
    assert all(both_empty[name] == 1 for name in SCORES)
    claimed = score_mask(empty, full)
    assert claimed["jaccard"] == claimed["dice"] == claimed["thresholded_jaccard"] == 0
    assert claimed["sensitivity"] == 1 and claimed["specificity"] == 0
    missed = score_mask(full, empty)
    assert missed["sensitivity"] == 0 and missed["specificity"] == 1


def test_the_threshold_itself_passes():
    truth, prediction = np.zeros((1, 200), bool), np.zeros((1, 200), bool)
    truth[0, :100], prediction[0, :65] = True, True
    assert score_mask(truth, prediction)["thresholded_jaccard"] == 0.65
    prediction[0, 64] = False
    assert score_mask(truth, prediction)["thresholded_jaccard"] == 0


@pytest.mark.parametrize(
    "truth, prediction",
    [
        (np.zeros((2, 3), bool), np.zeros((3, 2), bool)),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), bool)),
        (np.zeros((2, 3), bool), np.zeros((2, 3))),
        (np.zeros((0, 3), bool), np.zeros((0, 3), bool)),
        (np.zeros((2, 3, 1), bool), np.zeros((2, 3, 1), bool)),
    ],
)
def test_score_mask_refuses_what_is_no_mask(truth, prediction):
    with pytest.raises(ValueError, match="masks must"):
        score_mask(truth, prediction)


def random_batch(seed, num=6, height=5, width=7):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, height, width, 1)).astype(np.float32)
    masks = (rng.random(logits.shape) < rng.random((num, 1, 1, 1))).astype(np.float32)
    masks[0], logits[0] = 0, -1  # empty and found empty
    masks[1] = 1
    inside = np.zeros_like(masks)
    inside[:, 1:, 2:] = 1
    inside[2] = 0
    valid = (np.arange(num) != 3).astype(np.float32)
    return logits, masks, inside, valid


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_mask_sums_are_the_sums_of_score_mask(dtype):
    logits, masks, inside, valid = random_batch(0)
    inside[2] = inside[1]
    with jax.numpy_dtype_promotion("strict"):
        sums = jax.jit(mask_sums)(logits.astype(dtype), masks, inside, valid)
    scores = [
        score_mask(masks[i, 1:, 2:, 0] > 0, logits[i, 1:, 2:, 0] >= 0)
        for i in range(len(valid))
        if valid[i]
    ]
    assert set(sums) == {"num_images", *SCORES, *COUNTS}
    assert all(s.dtype == jnp.float32 and s.shape == () for s in sums.values())
    assert sums["num_images"] == len(scores)
    for name in (*SCORES, *COUNTS):
        assert sums[name] == pytest.approx(sum(s[name] for s in scores), rel=1e-6), name


def test_sums_do_not_depend_on_how_a_split_is_batched():
    """Seven images in batches of four, the last one filled up, are the seven images at once."""
    batch = random_batch(1, num=7)
    batch[3][:] = 1
    whole = jax.tree.map(float, mask_sums(*batch))
    filled = [np.concatenate([a, np.zeros_like(a[:1])]) for a in batch]
    parts = [jax.tree.map(float, mask_sums(*(a[i : i + 4] for a in filled))) for i in (0, 4)]
    together = {name: sum(part[name] for part in parts) for name in whole}
    assert together == pytest.approx(whole, rel=1e-6)
    assert divide_sums(together) == pytest.approx(divide_sums(whole), rel=1e-6)


def test_logits_that_are_not_finite_in_filling_count_nothing():
    logits, masks, inside, valid = random_batch(2)
    clean = mask_sums(logits, masks, inside, valid)
    logits[3] = np.nan
    dirty = mask_sums(logits, masks, inside, valid)
    assert jax.tree.map(float, clean) == jax.tree.map(float, dirty)


def test_divide_sums_and_summarise_masks_agree():
    logits, masks, inside, valid = random_batch(3)
    inside[:], valid[:] = 1, 1
    sums = jax.tree.map(float, mask_sums(logits, masks, inside, valid))
    scores = [score_mask(t[..., 0] > 0, p[..., 0] >= 0) for t, p in zip(masks, logits, strict=True)]
    online = divide_sums(sums)
    figures = summarise_masks(scores, list("abcdef"), num_resamples=50)
    assert set(online) <= set(figures)
    for name, value in online.items():
        assert figures[name] == pytest.approx(value, rel=1e-6), name


def test_divide_sums_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        divide_sums(dict.fromkeys(("num_images", *SCORES, *COUNTS), 0.0))


def random_scores(num, seed=0):
    rng = np.random.default_rng(seed)
    truths = [rng.random(shape) < 0.5 for shape in rng.integers(3, 9, (num, 2))]
    # From masks that are almost right to such as are drawn by chance.
    wrong = [rng.random(truth.shape) < rng.uniform(0, 0.5) for truth in truths]
    return [score_mask(truth, truth ^ some) for truth, some in zip(truths, wrong, strict=True)]


def test_summarise_masks():
    scores = random_scores(30)
    lesion_ids = [f"lesion{i // 2}" for i in range(30)]
    figures = summarise_masks(scores, lesion_ids)
    assert set(figures) == {
        "num_images",
        "num_lesions",
        *SCORES,
        "jaccard_pooled",
        "dice_pooled",
        *(f"{name}_{end}" for name in MASK_HEADLINES for end in ("low", "high")),
    }
    assert figures["num_images"] == 30 and isinstance(figures["num_images"], int)
    for name in SCORES:
        assert figures[name] == pytest.approx(np.mean([s[name] for s in scores]))
    tp, fp, fn = (sum(s[name] for s in scores) for name in ("tp", "fp", "fn"))
    assert figures["jaccard_pooled"] == pytest.approx(tp / (tp + fp + fn))
    assert figures["dice_pooled"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    for name in MASK_HEADLINES:
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]
    assert figures == summarise_masks(scores, lesion_ids)
    assert all(type(value) in (int, float) for value in figures.values())


def test_summaries_of_nothing_and_of_the_wrong_number_are_errors():
    with pytest.raises(ValueError, match="empty"):
        summarise_masks([], [])
    with pytest.raises(ValueError, match="lesion ids"):
        summarise_masks(random_scores(3), ["a", "b"])


def test_one_lesion_has_an_interval_of_no_width():
    figures = summarise_masks(random_scores(5), ["a"] * 5)
    assert figures["jaccard_low"] == pytest.approx(figures["jaccard"])
    assert figures["jaccard_high"] == pytest.approx(figures["jaccard"])


def test_a_lesions_images_are_drawn_together_and_as_many_lesions_as_there_are():
    lesion_ids = ["b", "a", "b", "c", "a", "b"]
    weights = np.concatenate(list(resample_lesions(lesion_ids, 500, seed=1)))
    assert weights.shape == (500, 6)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    np.testing.assert_array_equal(weights[:, 0], weights[:, 5])
    np.testing.assert_array_equal(weights[:, 1], weights[:, 4])
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(1), np.full(500, 3))
    np.testing.assert_allclose(weights.mean(0), np.ones(6), atol=0.15)


def test_the_blocks_a_bootstrap_is_cut_into_are_no_part_of_its_result():
    lesion_ids = [str(i) for i in range(4000)]
    blocks = list(resample_lesions(lesion_ids, 1100, seed=0))
    assert len(blocks) > 1 and sum(map(len, blocks)) == 1100
    generator = np.random.default_rng(0)
    # np.unique sorts the names, so the lesion drawn as number n is the n-th in that order.
    order = np.argsort(lesion_ids)
    for row in np.concatenate(blocks)[[0, 1]]:
        drawn = generator.integers(4000, size=4000)
        np.testing.assert_array_equal(row[order], np.bincount(drawn, minlength=4000))


def test_with_one_image_a_lesion_it_is_the_plain_bootstrap():
    values = np.random.default_rng(0).exponential(size=40)
    low, high = bootstrap_means(values[:, None], [f"{i:02}" for i in range(40)], 3000, seed=4)
    generator = np.random.default_rng(4)
    means = [values[generator.integers(40, size=40)].mean() for _ in range(3000)]
    np.testing.assert_allclose([low[0], high[0]], np.percentile(means, [2.5, 97.5]))


def test_the_general_bootstrap_draws_what_that_of_means_draws():
    rng = np.random.default_rng(0)
    values = rng.random(50)
    lesion_ids = [str(i) for i in rng.integers(0, 20, 50)]
    low, high = bootstrap_means(values[:, None], lesion_ids, 400, seed=9)
    found = bootstrap_over_lesions(lambda i: values[i].mean(), lesion_ids, 400, seed=9)
    np.testing.assert_allclose(found, (low[0], high[0]))
    assert found != bootstrap_over_lesions(lambda i: values[i].mean(), lesion_ids, 400, seed=8)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Images of a lesion alike: the interval over lesions covers, one over images would not."""
    rng = np.random.default_rng(0)
    num_lesions, num_alike, trials = 60, 4, 200
    covered = {"lesions": 0, "images": 0}
    for trial in range(trials):
        values = np.repeat(rng.normal(size=num_lesions), num_alike)[:, None]
        lesion_ids = {
            "lesions": np.repeat(np.arange(num_lesions), num_alike).astype(str),
            "images": np.arange(len(values)).astype(str),
        }
        for unit, ids in lesion_ids.items():
            low, high = bootstrap_means(values, ids, 300, seed=trial)
            covered[unit] += low[0] <= 0 <= high[0]
    assert 0.89 <= covered["lesions"] / trials <= 0.99
    assert covered["images"] / trials < 0.8


def test_an_interval_leaves_out_a_few_undefined_draws_and_is_none_with_many():
    draws = np.arange(1000.0)
    few, many = draws.copy(), draws.copy()
    few[::50], many[::10] = np.nan, np.nan
    low, high = interval(np.stack([few, many], axis=1))
    np.testing.assert_allclose([low[0], high[0]], np.nanpercentile(few, [2.5, 97.5]))
    assert np.isnan(low[1]) and np.isnan(high[1])
    lesion_ids = ["a", "b"]
    assert np.isnan(bootstrap_over_lesions(lambda i: np.nan, lesion_ids, 20)).all()


def test_nothing_to_draw_from_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        bootstrap_over_lesions(len, [])
