"""Probabilities of the model's classes as those of the classes that a data set has."""

import numpy as np
import pytest

from skinjax.data.classes import match_classes
from skinjax.data.sources.example import CLASSES
from skinjax.modes.evaluate_classes import _common

CHANCES = np.random.default_rng(0).dirichlet(np.ones(7), 20)


def chance(name):
    return CHANCES[:, CLASSES.index(name)]


def test_all_but_melanoma_are_benign():
    match = match_classes(CLASSES, ("benign", "malignant"))
    found = dict(zip(match.names, _common(CHANCES, match).T, strict=True))
    np.testing.assert_allclose(found["mel"], chance("mel"))
    np.testing.assert_allclose(found["benign"], 1 - chance("mel"))


def test_what_the_data_set_lacks_is_divided_among_the_others():
    match = match_classes(CLASSES, ("mel", "nv", "sk"))
    known = chance("bkl") + chance("mel") + chance("nv")
    found = dict(zip(match.names, _common(CHANCES, match).T, strict=True))
    assert found.keys() == {"bkl", "mel", "nv"}
    for name, values in found.items():
        np.testing.assert_allclose(values, chance(name) / known)


@pytest.mark.parametrize("classes", [CLASSES, tuple(reversed(CLASSES))])
def test_the_same_classes_stay_as_they_are(classes):
    np.testing.assert_allclose(_common(CHANCES, match_classes(CLASSES, classes)), CHANCES)
