"""The attention blocks against float64 formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate
from scipy.special import expit

from skinjax.models.attention import CBAM, ScSE, SqueezeExcitation

SHAPE = (2, 6, 5, 8)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def randomised(variables: dict, seed: int = 1) -> dict:
    """The same tree with positive random values, so that no bias, scale or statistic is trivial."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: rng.uniform(0.1, 1.0, a.shape).astype(a.dtype), variables)


def mlp(params: dict, x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x @ params["squeeze"]["kernel"] + params["squeeze"]["bias"], 0)
    return hidden @ params["excite"]["kernel"] + params["excite"]["bias"]


def test_squeeze_excitation_is_its_formula(x):
    block = SqueezeExcitation(reduction=4)
    params = randomised(block.init(jax.random.key(0), x))["params"]
    wide = x.astype(np.float64)
    gate = expit(mlp(params["mlp"], wide.mean((1, 2))))
    expected = wide * gate[:, None, None, :]
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)


def test_scse_is_its_formula(x):
    block = ScSE(reduction=4)
    params = randomised(block.init(jax.random.key(0), x))["params"]
    wide = x.astype(np.float64)
    by_channel = expit(mlp(params["channel"]["mlp"], wide.mean((1, 2))))[:, None, None, :]
    by_pixel = expit(wide @ params["spatial"]["kernel"] + params["spatial"]["bias"])
    expected = wide * by_channel + wide * by_pixel
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)


def test_cbam_is_its_formula(x):
    block = CBAM(reduction=4)
    variables = randomised(block.init(jax.random.key(0), x, train=False))
    params, stats = variables["params"], variables["batch_stats"]["spatial_norm"]
    y = x.astype(np.float64)
    logits = mlp(params["mlp"], y.mean((1, 2))) + mlp(params["mlp"], y.max((1, 2)))
    y = y * expit(logits)[:, None, None, :]
    kernel = params["spatial_conv"]["kernel"][..., 0].astype(np.float64)
    pooled = np.stack([y.max(3), y.mean(3)], axis=-1)
    logits = np.stack([correlate(image, kernel, mode="constant")[..., 1] for image in pooled])
    norm = params["spatial_norm"]
    logits = (logits - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
    expected = y * expit(logits)[..., None]
    actual = block.apply(variables, x, train=False)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_new_cbam_halves_every_pixel_after_its_channel_gate(x):
    block = CBAM(reduction=4)
    variables = block.init(jax.random.key(0), x, train=False)
    y, _ = block.apply(variables, x, train=True, mutable=["batch_stats"])
    ratio = np.asarray(y) / x
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], SHAPE), rtol=1e-4)
    params = variables["params"]["mlp"]
    gate = expit(mlp(params, x.mean((1, 2))) + mlp(params, x.max((1, 2))))
    np.testing.assert_allclose(ratio[:, 0, 0], 0.5 * gate, rtol=1e-4)


def test_cbam_statistics_move_by_one_percent(x):
    block = CBAM(reduction=4)
    variables = block.init(jax.random.key(0), x, train=False)
    _, new = block.apply(
        variables,
        x,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "spatial_conv",
    )
    (logits,) = new["intermediates"]["spatial_conv"]["__call__"]
    moved = new["batch_stats"]["spatial_norm"]
    np.testing.assert_allclose(moved["mean"], [0.01 * logits.mean()], rtol=1e-5)
    np.testing.assert_allclose(moved["var"], [0.99 + 0.01 * logits.var()], rtol=1e-5)


@pytest.mark.parametrize("block", [SqueezeExcitation, ScSE, CBAM])
def test_bfloat16_maps_have_float32_parameters_and_strict_types(block, x):
    wide, narrow = block(reduction=4), block(reduction=4, dtype=jnp.bfloat16)
    call = {"train": True, "mutable": ["batch_stats"]} if block is CBAM else {}
    init = {"train": True} if block is CBAM else {}
    with jax.numpy_dtype_promotion("strict"):
        variables = narrow.init(jax.random.key(0), jnp.asarray(x), **init)
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
        variables = randomised(variables)
        actual = narrow.apply(variables, jnp.asarray(x, jnp.bfloat16), **call)
        expected = wide.apply(variables, jnp.asarray(x), **call)
    if block is CBAM:
        actual, expected = actual[0], expected[0]
    assert actual.dtype == jnp.bfloat16 and expected.dtype == jnp.float32
    np.testing.assert_allclose(actual.astype(np.float32), expected, rtol=0.03, atol=0.03)


def test_means_of_bfloat16_maps_are_summed_in_float32():
    # A sum in bfloat16 stops growing at 256; the gate of a mean of 1 must not become that of 1/64.
    x = jnp.ones((1, 128, 128, 2), jnp.bfloat16)
    block = SqueezeExcitation(reduction=1, dtype=jnp.bfloat16)
    identity = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    y = block.apply({"params": {"mlp": {"squeeze": identity, "excite": identity}}}, x)
    np.testing.assert_allclose(y.astype(np.float32), expit(1.0), rtol=0.005)


@pytest.mark.parametrize("block", [SqueezeExcitation, ScSE, CBAM])
def test_one_pixel_and_fewer_channels_than_the_reduction_work(block):
    x = jnp.ones((1, 1, 1, 3))
    call = {"train": False} if block is CBAM else {}
    y, variables = block(reduction=16).init_with_output(jax.random.key(0), x, **call)
    assert y.shape == x.shape and bool(jnp.isfinite(y).all())
    hidden = [a for a in jax.tree.leaves(variables["params"]) if a.shape == (3, 1)]
    assert hidden, "the hidden layer keeps one unit"
