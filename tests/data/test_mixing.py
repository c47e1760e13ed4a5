"""Mixup and CutMix: what is in the picture is in the target."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skinjax.data.mixing import mix

run = partial(jax.jit, static_argnames=("mixup_alpha", "cutmix_alpha"))(mix)

NUM, HEIGHT, WIDTH = 64, 12, 17
# Picture n is all n, and so is its class: what a mixture consists of can be read off.
IMAGES = np.broadcast_to(
    np.arange(NUM, dtype=np.float32)[:, None, None, None], (NUM, HEIGHT, WIDTH, 3)
)
TARGETS = np.eye(NUM, dtype=np.float32)
NEXT = (np.arange(NUM) + 1) % NUM


def test_off_is_untouched():
    images, targets = mix(jax.random.key(0), IMAGES, TARGETS)
    assert images is IMAGES and targets is TARGETS


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_mixup_has_the_same_share_in_picture_and_target(seed):
    images, targets = run(jax.random.key(seed), IMAGES, TARGETS, mixup_alpha=0.4)
    shares = np.asarray(targets)[np.arange(NUM), NEXT]
    np.testing.assert_allclose(np.asarray(targets).sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(np.diag(targets), 1 - shares, atol=1e-6)
    expected = np.arange(NUM) * (1 - shares) + NEXT * shares
    np.testing.assert_allclose(
        images, np.broadcast_to(expected[:, None, None, None], images.shape), rtol=1e-5, atol=1e-4
    )
    assert images.dtype == targets.dtype == jnp.float32


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_cutmix_pastes_a_rectangle_and_counts_its_pixels(seed):
    images, targets = map(np.asarray, run(jax.random.key(seed), IMAGES, TARGETS, cutmix_alpha=1.0))
    for n in range(NUM):
        pasted = images[n, ..., 0] == NEXT[n]
        assert np.all(pasted | (images[n, ..., 0] == n))
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, np.outer(rows, columns))
        for side in (rows, columns):
            assert np.abs(np.diff(np.pad(side, 1).astype(int))).sum() in (0, 2)
        assert targets[n, NEXT[n]] == pytest.approx(pasted.mean(), abs=1e-6)
        assert targets[n, n] == pytest.approx(1 - pasted.mean(), abs=1e-6)


def test_cutmix_takes_the_partners_pixels_from_their_own_place():
    rng = np.random.default_rng(0)
    images = rng.random((NUM, HEIGHT, WIDTH, 3)).astype(np.float32)
    mixed, _ = run(jax.random.key(0), images, TARGETS, cutmix_alpha=1.0)
    assert np.all((mixed == images) | (mixed == images[NEXT]))


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_shares_are_of_the_beta_distribution(alpha):
    images, targets = np.zeros((4000, 2, 2, 1), np.float32), np.zeros((4000, 2), np.float32)
    targets[::2, 1] = targets[1::2, 0] = 1
    _, mixed = run(jax.random.key(0), images, targets, mixup_alpha=alpha)
    shares = np.where(np.arange(4000) % 2 == 0, mixed[:, 0], mixed[:, 1])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_with_both_on_each_picture_has_one_of_them():
    both = {"mixup_alpha": 1.0, "cutmix_alpha": 1.0}
    images, targets = map(np.asarray, run(jax.random.key(0), IMAGES, TARGETS, **both))
    averaged = np.array(
        [len(np.unique(i)) == 1 and i.flat[0] not in (n, NEXT[n]) for n, i in enumerate(images)]
    )
    pasted = np.array([set(np.unique(i)) <= {n, NEXT[n]} for n, i in enumerate(images)])
    assert np.all(averaged | pasted)
    assert 15 < averaged.sum() < 50
    shares = (images.mean((1, 2, 3)) - np.arange(NUM)) / (NEXT - np.arange(NUM))
    np.testing.assert_allclose(targets[np.arange(NUM), NEXT], shares, atol=1e-4)


def test_a_batch_of_one_is_itself():
    images, targets = run(
        jax.random.key(0), IMAGES[5:6], TARGETS[5:6], mixup_alpha=1.0, cutmix_alpha=1.0
    )
    np.testing.assert_allclose(images, IMAGES[5:6], rtol=1e-6)
    np.testing.assert_allclose(targets, TARGETS[5:6], atol=1e-6)


def test_keys_decide():
    first, again, other = (
        run(jax.random.key(k), IMAGES, TARGETS, mixup_alpha=0.4, cutmix_alpha=1.0)
        for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("alphas", [{"mixup_alpha": -1.0}, {"cutmix_alpha": -0.1}])
def test_negative_alphas_are_refused(alphas):
    with pytest.raises(ValueError, match=next(iter(alphas))):
        mix(jax.random.key(0), IMAGES, TARGETS, **alphas)


def test_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        mix(jax.random.key(0), jnp.asarray(IMAGES), jnp.asarray(TARGETS), 0.4, 1.0)


@pytest.mark.skipif(jax.device_count() < 4, reason="needs four devices (XLA_FLAGS fakes them)")
def test_four_devices_do_what_one_does_and_gather_nothing():
    alphas = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    batch = jax.device_put((IMAGES, TARGETS), sharding)
    compiled = (
        jax.jit(partial(mix, **alphas), out_shardings=sharding)
        .lower(jax.random.key(0), *batch)
        .compile()
    )
    assert "all-gather" not in compiled.as_text()
    alone = run(jax.random.key(0), IMAGES, TARGETS, **alphas)
    for a, b in zip(alone, compiled(jax.random.key(0), *batch), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
