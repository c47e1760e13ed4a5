"""Test-time augmentation: every view comes back to its place, and none is counted twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from skinjax.tasks.views import ZOOMS, average_views, resampling


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


def zoomed(image, zoom):
    """Pillow's: what a zoom shows of a picture that goes on with its border; float32 [H, W]."""
    height, width = image.shape
    padded = Image.fromarray(np.pad(image, ((height, height), (width, width)), mode="edge"))
    half_h, half_w = height / zoom / 2, width / zoom / 2
    box = (1.5 * width - half_w, 1.5 * height - half_h, 1.5 * width + half_w, 1.5 * height + half_h)
    return np.asarray(padded.resize((width, height), Image.Resampling.BILINEAR, box=box))


@pytest.mark.parametrize("zoom", [*ZOOMS, 0.5, 2.0])
def test_magnifying_is_pillows(zoom):
    image = np.random.default_rng(0).uniform(size=(9, 12)).astype(np.float32)
    found = resampling(9, zoom) @ image @ resampling(12, zoom).T
    np.testing.assert_allclose(found, zoomed(image, zoom), atol=2e-3)


def test_zooms_average_what_a_model_says_of_each_magnified_view():
    images = np.random.default_rng(0).uniform(size=(2, 9, 12, 3)).astype(np.float32)

    def predict(view):  # one that sees where things are
        return jnp.stack([view[:, 1, 2, 0] ** 2, view[:, 4, 6, 1] ** 2], axis=1)

    found = average_views(predict, jnp.asarray(images), tta="zooms")
    expected = []
    for zoom in ZOOMS:
        view = np.stack([[zoomed(i[..., c], zoom) for c in range(3)] for i in images])
        view = jnp.asarray(np.moveaxis(view, 1, -1))
        expected.append(average_views(predict, view))
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=5e-3)


def test_zoomed_outlines_come_back_to_their_place():
    rows, columns = np.mgrid[:24, :32].astype(np.float32)
    # What is linear is resampled to itself but for the triangles that reduce it, whose samples
    # are not quite symmetric: a twentieth of a pixel; wherever no view ends.
    ramp = np.stack([rows, columns, rows + 2 * columns], axis=-1)[None]
    for channel, slope in enumerate((1, 1, 3)):
        found = average_views(
            lambda view, channel=channel: view[..., channel], jnp.asarray(ramp), True, "zooms"
        )
        expected = ramp[0, ..., channel]
        np.testing.assert_allclose(found[0, 4:-4, 4:-4], expected[4:-4, 4:-4], atol=0.05 * slope)
    flat = average_views(lambda view: view[..., 0], jnp.full((1, 24, 32, 3), 0.3), True, "zooms")
    np.testing.assert_allclose(flat, 0.3, rtol=1e-6)


def test_a_pixel_is_averaged_over_the_views_that_show_it():
    calls = []

    def predict(view):
        calls.append(view)
        return jnp.ones(view.shape[:3])

    ones = average_views(predict, jnp.zeros((1, 20, 30, 3)), True, "zooms")
    np.testing.assert_allclose(ones, 1.0, rtol=1e-6)
    assert len(calls) == 4  # the model is traced for the flips, not for each magnification
