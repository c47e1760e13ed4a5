"""How the classes of a model and of a data set answer to each other."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skinjax.data.classes import FINEST_CLASSES, match_classes
from skinjax.data.sources.example import CLASSES

ISIC2019 = ("ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc")
PH2 = ("atypical_nevus", "common_nevus", "melanoma")


def common(model, data):
    """Common class by class of the data set, and the model's classes by common class."""
    match = match_classes(model, data)
    of_data = {c: match.names[i] for c, i in zip(data, match.of_data, strict=True) if i >= 0}
    of_model = {
        name: tuple(c for c, i in zip(model, match.of_model, strict=True) if i == index)
        for index, name in enumerate(match.names)
    }
    return of_data, of_model


NAMES = sorted({*FINEST_CLASSES, *set.union(*map(set, FINEST_CLASSES.values())), "wart", "scar"})
SIDES = st.lists(st.sampled_from(NAMES), unique=True, min_size=1).map(tuple)


@given(SIDES)
@example(CLASSES)
@example(ISIC2019)
@example(PH2)
@example(("benign", "mel", "nv"))
def test_the_same_classes_are_themselves(classes):
    match = match_classes(classes, classes)
    assert match.names == classes
    assert match.of_model == match.of_data == tuple(range(len(classes)))


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


def test_a_class_beside_finer_ones_is_what_they_leave_of_it():
    of_data, of_model = common(CLASSES, ("benign", "mel", "nv"))
    assert of_data == {"benign": "benign", "mel": "mel", "nv": "nv"}
    assert set(of_model["benign"]) == set(CLASSES) - {"mel", "nv"}


@given(SIDES, SIDES)
def test_a_match_is_a_partition_and_the_same_both_ways(model, data):
    match = match_classes(model, data)
    assert len(set(match.names)) == len(match.names)
    for classes, indices in ((model, match.of_model), (data, match.of_data)):
        assert len(indices) == len(classes)
        assert {i for i in indices if i >= 0} == set(range(len(match.names)))
    # A class that both sides have is in one common class, and one that holds nothing of the other
    # side's is in none.
    ours, theirs = (
        dict(zip(*s, strict=True)) for s in ((model, match.of_model), (data, match.of_data))
    )
    for name in set(model) & set(data):
        assert ours[name] == theirs[name] >= 0
    held = [FINEST_CLASSES.get(name, {name}) for name in data]
    for name, index in ours.items():
        if FINEST_CLASSES.get(name, {name}).isdisjoint(set.union(set(), *held)):
            assert index == -1
    back = match_classes(data, model)
    assert len(back.names) == len(match.names)


@pytest.mark.parametrize("names", list(itertools.combinations(FINEST_CLASSES, 2)))
def test_of_two_classes_one_holds_the_other_or_they_share_nothing(names):
    first, second = (FINEST_CLASSES[name] for name in names)
    assert first < second or second < first or not first & second
