"""How the data sets' class names answer to each other: one table, and what it makes of two sets."""

from collections.abc import Sequence
from dataclasses import dataclass

from skinjax.data.sources.example import CLASSES

# The finest classes that each class holds, in its own name and in others'. Two classes hold none
# in common, or one of them holds all that the other does; so where a set has both (benign and nv),
# the coarser one is what the finer ones leave of it. Names that are not here hold themselves alone.
#   ISIC 2019: ak, actinic keratosis, is the larger part of akiec, and scc, squamous cell carcinoma,
#   is counted there as well, since HAM10000's akiec holds the carcinoma in situ (Bowen's disease)
#   and no other class is nearer.
#   ISIC 2017: sk, seborrheic keratosis, is the larger part of bkl.
#   ISIC 2016 and 2020: malignant is melanoma, and benign is everything else.
#   PH2: common and atypical nevi are nv.
FINEST_CLASSES: dict[str, frozenset[str]] = {
    **{name: frozenset([name]) for name in CLASSES},
    "akiec": frozenset(["akiec", "ak", "scc"]),
    "bkl": frozenset(["bkl", "sk"]),
    "nv": frozenset(["nv", "common_nevus", "atypical_nevus"]),
    "melanoma": frozenset(["melanoma", "mel"]),
    "malignant": frozenset(["malignant", "melanoma", "mel"]),
}
FINEST_CLASSES["benign"] = frozenset(["benign"]).union(
    *(FINEST_CLASSES[name] for name in CLASSES if name != "mel")
)


@dataclass(frozen=True)
class ClassMatch:
    """The classes in which the predictions of one set's classes can be scored on another set.

    Attributes:
        names: the common classes, in a stated order: that of the model's.
        of_model: for each class of the model, the index of its common class; -1 for one that the
            data set does not have.
        of_data: for each class of the data set, the index of its common class; -1 for one that
            answers to none of the model's.
    """

    names: tuple[str, ...]
    of_model: tuple[int, ...]
    of_data: tuple[int, ...]

    def describe(self, model_classes: Sequence[str], data_classes: Sequence[str]) -> str:
        """The match as lines 'common class: model's classes = data set's classes'."""
        lines = []
        for index, name in enumerate(self.names):
            ours = [c for c, i in zip(model_classes, self.of_model, strict=True) if i == index]
            theirs = [c for c, i in zip(data_classes, self.of_data, strict=True) if i == index]
            lines.append(f"  {name}: model's {', '.join(ours)} = data set's {', '.join(theirs)}")
        for what, classes, indices in (
            ("model's, not scored", model_classes, self.of_model),
            ("data set's, left out", data_classes, self.of_data),
        ):
            left = [name for name, index in zip(classes, indices, strict=True) if index < 0]
            if left:
                lines.append(f"  {what}: {', '.join(left)}")
        return "\n".join(lines)


def match_classes(model_classes: Sequence[str], data_classes: Sequence[str]) -> ClassMatch:
    """Finds the finest classes that both sides can be put into.

    Args:
        model_classes: what the model tells apart, in the order of its logits.
        data_classes: what the data set tells apart.

    Returns:
        The common classes. One is named as the side that has the fewer classes of it has it: a
        model of seven diagnoses is scored in 'benign' and 'malignant' where that is all that is
        known.
    """
    sides = [_parts(model_classes), _parts(data_classes)]
    groups: list[frozenset[str]] = []  # of finest classes; each class lies in one of them
    for part in (part for side in sides for part in side.values()):
        touching = [group for group in groups if group & part]
        groups = [group for group in groups if not group & part]
        groups.append(part.union(*touching))

    def members(side: dict[str, frozenset[str]], group: frozenset[str]) -> list[str]:
        return [name for name, part in side.items() if part & group]

    common = [
        (ours, theirs)
        for group in sorted(groups, key=lambda g: [not part & g for part in sides[0].values()])
        if (ours := members(sides[0], group)) and (theirs := members(sides[1], group))
    ]
    names = tuple(
        ours[0] if len(ours) <= len(theirs) else "+".join(theirs) for ours, theirs in common
    )

    def index_of(name: str, side: int) -> int:
        found = [index for index, pair in enumerate(common) if name in pair[side]]
        return found[0] if found else -1

    return ClassMatch(
        names,
        tuple(index_of(name, 0) for name in model_classes),
        tuple(index_of(name, 1) for name in data_classes),
    )


def _parts(classes: Sequence[str]) -> dict[str, frozenset[str]]:
    """What each of a set's classes holds: no finest class is in two of them."""
    held = {name: FINEST_CLASSES.get(name, frozenset([name])) for name in classes}
    return {
        name: part.difference(*(other for other in held.values() if other < part))
        for name, part in held.items()
    }
