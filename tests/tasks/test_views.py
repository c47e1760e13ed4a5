"""Test-time augmentation: every view comes back to its place, and none is counted twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skinjax.tasks.views import average_views


@pytest.mark.parametrize(("size", "num_views"), [((6, 8), 4), ((6, 6), 8)])
def test_views_are_all_different_and_come_back(size, num_views):
    images = jax.random.uniform(jax.random.key(0), (2, *size, 3))
    seen = []

    def predict(view):
        seen.append(np.asarray(view))
        return view[..., 0]

    averaged = average_views(predict, images, spatial=True)
    np.testing.assert_allclose(averaged, images[..., 0], rtol=1e-6)
    assert len({view.tobytes() for view in seen}) == num_views == len(seen)


def test_predictions_without_geometry_are_averaged():
    images = jax.random.uniform(jax.random.key(0), (2, 4, 6, 3))
    corner = average_views(lambda view: view[:, 0, 0], images)
    expected = np.mean([images[:, i, j] for i in (0, -1) for j in (0, -1)], axis=0)
    np.testing.assert_allclose(corner, expected, rtol=1e-6)


def test_an_average_of_views_does_not_depend_on_the_view():
    images = jax.random.uniform(jax.random.key(0), (1, 6, 6, 3))
    weights = jax.random.normal(jax.random.key(1), (6, 6, 3))

    def predict(view):
        return jnp.tanh(jnp.sum(view * weights, axis=(1, 2, 3)))[:, None]

    plain = average_views(predict, images)
    turned = average_views(predict, jnp.rot90(jnp.flip(images, 2), 1, axes=(1, 2)))
    np.testing.assert_allclose(plain, turned, rtol=1e-5)
