"""How the classes of a model and of a data set answer to each other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skinjax.data.classes import HAM10000_CLASSES, match_classes
from skinjax.data.sources.example import CLASSES

ISIC2019 = ("ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc")


def common(model, data):
    """Common class by class of the data set, and the model's classes by common class."""
    match = match_classes(model, data)
    of_data = {c: match.names[i] for c, i in zip(data, match.of_data, strict=True) if i >= 0}
    of_model = {
        name: tuple(c for c, i in zip(model, match.of_model, strict=True) if i == index)
        for index, name in enumerate(match.names)
    }
    return of_data, of_model


def test_the_same_classes_are_themselves():
    match = match_classes(CLASSES, CLASSES)
    assert match.names == CLASSES
    assert match.of_model == match.of_data == tuple(range(7))


def test_isic2019_has_two_of_akiec():
    of_data, of_model = common(CLASSES, ISIC2019)
    assert of_data == {name: name for name in ISIC2019 if name not in ("ak", "scc")} | {
        "ak": "akiec",
        "scc": "akiec",
    }
    assert of_model == {name: (name,) for name in CLASSES}


def test_where_melanoma_alone_is_known_the_others_are_benign():
    of_data, of_model = common(CLASSES, ("benign", "malignant"))
    assert of_data == {"benign": "benign", "malignant": "mel"}
    assert of_model["mel"] == ("mel",)
    assert set(of_model["benign"]) == set(CLASSES) - {"mel"}


def test_what_the_data_set_lacks_is_not_scored():
    match = match_classes(CLASSES, ("mel", "nv", "sk"))
    assert match.names == ("bkl", "mel", "nv")
    assert [match.of_model[CLASSES.index(name)] for name in ("akiec", "bcc", "df")] == [-1] * 3
    told = match.describe(CLASSES, ("mel", "nv", "sk"))
    assert "bkl: model's bkl = data set's sk" in told
    assert "model's, not scored: akiec, bcc, df, vasc" in told


def test_a_model_of_two_classes_on_three():
    of_data, of_model = common(("benign", "malignant"), ("mel", "nv", "sk"))
    assert of_data == {"mel": "malignant", "nv": "benign", "sk": "benign"}
    assert of_model == {"benign": ("benign",), "malignant": ("malignant",)}


def test_names_that_nobody_knows_answer_to_themselves():
    assert match_classes(("wart", "scar"), ("scar", "burn")).names == ("scar",)
    assert match_classes(CLASSES, ("wart", "scar")).names == ()


NAMES = sorted({*HAM10000_CLASSES, "wart", "scar"})
SIDES = st.lists(st.sampled_from(NAMES), unique=True, min_size=1).map(tuple)


@given(SIDES, SIDES)
def test_a_match_is_a_partition_and_the_same_both_ways(model, data):
    match = match_classes(model, data)
    assert len(set(match.names)) == len(match.names)
    for classes, indices in ((model, match.of_model), (data, match.of_data)):
        assert len(indices) == len(classes)
        assert {i for i in indices if i >= 0} == set(range(len(match.names)))
    # Classes of the two sides that overlap are in one common class, and those that do not overlap
    # with any of the other side are in none.
    for ours, i in zip(model, match.of_model, strict=True):
        parts = set(HAM10000_CLASSES.get(ours, (ours,)))
        touching = [
            j
            for theirs, j in zip(data, match.of_data, strict=True)
            if parts & set(HAM10000_CLASSES.get(theirs, (theirs,)))
        ]
        assert all(i == j for j in touching)
    back = match_classes(data, model)
    assert len(back.names) == len(match.names)


@pytest.mark.parametrize("name", HAM10000_CLASSES)
def test_the_table_names_ham10000_classes(name):
    assert set(HAM10000_CLASSES[name]) <= set(CLASSES)
