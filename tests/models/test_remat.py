"""Rematerialisation: the same variables, figures and gradients; each block computed again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.models import cbam_resnet
from skinjax.models.cbam_resnet import CBAMResNet
from skinjax.models.seunet import EfficientNetUNet, SEUNet


@pytest.fixture(params=["seunet", "cbam_resnet", pytest.param("lite_unet", marks=pytest.mark.slow)])
def make_model(request, monkeypatch):
    if request.param == "lite_unet":
        return lambda remat: EfficientNetUNet(base_features=4, reduction=4, remat=remat)
    if request.param == "seunet":
        return lambda remat: SEUNet(base_features=4, reduction=4, remat=remat)
    monkeypatch.setitem(cbam_resnet.STAGES, 18, (1, 1, 1, 1))
    return lambda remat: CBAMResNet(7, depth=18, remat=remat)


def test_remat_computes_each_block_again_and_changes_no_figure(make_model):
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    def init(remat):
        model = make_model(remat)
        return jax.jit(lambda key: model.init(key, images, train=False))(jax.random.key(0))

    variables, again = init(False), init(True)
    jax.tree.map(np.testing.assert_array_equal, variables, again)

    def lower_step(remat):
        def loss(params):
            logits, updated = make_model(remat).apply(
                {**variables, "params": params}, images, train=True, mutable=["batch_stats"]
            )
            return jnp.mean(jnp.square(logits)), updated

        return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(variables["params"])

    plain, rematerialised = lower_step(False), lower_step(True)
    # Of the recomputed sums, some are fused otherwise: float32 rounding, of gradients near 1.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        plain.compile()(variables["params"]),
        rematerialised.compile()(variables["params"]),
    )
    # One barrier a block keeps a compiler from taking the first computation for the second. The
    # CPU's takes no notice, so that its memory says nothing here.
    blocks = {SEUNet: 9, EfficientNetUNet: 16 + 4}.get(type(make_model(True)), 4)
    barriers = [step.as_text().count("optimization_barrier") for step in (plain, rematerialised)]
    assert barriers == [0, blocks]
