"""What a page answers of two checklists for papers, and what it leaves to their authors.

CLAIM 2024 (Tejani et al., Radiol Artif Intell 6:e240300) has 44 items; TRIPOD+AI (Collins et al.,
BMJ 385:e078378, 2024) has 27, most of them in parts. The words here are ours: cite the checklists'.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from skinjax.report.page import Link, Table

ANSWERED, IN_PART, AUTHORS = "answered", "in part", "left to the authors"


@dataclass(frozen=True)
class Item:
    """What both checklists ask, told once.

    Attributes:
      topic: what is asked.
      claim: the items of CLAIM 2024 that ask it.
      tripod: those of TRIPOD+AI.
      sections: of the page that answer it, or what stands in one; where it has none of them, the
        authors do.
      words: what the page says of it, or what the authors must.
      whole: whether the page answers all of it.
    """

    topic: str
    claim: tuple[str, ...]
    tripod: tuple[str, ...]
    sections: tuple[str, ...]
    words: str
    whole: bool = True


def _answered(topic: str, claim: str, tripod: str, sections: str, words: str) -> Item:
    return Item(
        topic, tuple(claim.split()), tuple(tripod.split()), tuple(sections.split()), words, True
    )


def _in_part(topic: str, claim: str, tripod: str, sections: str, words: str) -> Item:
    return Item(
        topic, tuple(claim.split()), tuple(tripod.split()), tuple(sections.split()), words, False
    )


def _authors(topic: str, claim: str, tripod: str, words: str) -> Item:
    return Item(topic, tuple(claim.split()), tuple(tripod.split()), (), words, False)


ITEMS = (
    _in_part("title: the kind of method", "1", "1", "card", "the model's kind; the title is yours"),
    _authors("abstract", "2", "2", "a structured summary"),
    _authors(
        "background, role in care, users, known inequalities",
        "3",
        "3a 3b 3c",
        "why the model is made, for whom, and who is worse off today",
    ),
    _authors("aims", "4", "4", "what was to be shown; development, evaluation or both"),
    _authors(
        "design of the study", "5 6", "", "prospective or not, and its goal; public sets: not"
    ),
    _in_part("sources of the data", "7", "5a", "card", "name, papers, licence; why these data"),
    _authors("dates and places of collection", "", "5b 6a", "from the data's papers"),
    _authors(
        "who was included, and how treated", "8", "6b 6c", "from the data's papers; if it matters"
    ),
    _answered(
        "preparation of the pictures", "9", "7 12b", "recipe", "size, fit, normalisation, changes"
    ),
    _in_part(
        "choice of subsets", "10", "", "data", "counts by split; pictures left out: --mode=audit"
    ),
    _authors("de-identification", "11", "", "how it was done"),
    _in_part(
        "missing data",
        "12",
        "11",
        "groups",
        "what is not told is a group of its own; why it is missing is yours",
    ),
    _authors("acquisition of the pictures", "13", "", "dermatoscopes, light, cameras"),
    _authors(
        "reference standard: what, why, by whom, blind to what",
        "14 15 16 17",
        "8a 8b 8c",
        "from the data's papers; how diagnoses were confirmed is among the groups",
    ),
    _authors("agreement of those who annotated", "18", "", "within and between persons"),
    _answered(
        "what the model sees", "", "9a 9b 9c", "recipe", "the picture alone, no other predictor"
    ),
    _answered(
        "assignment to the parts, and what they share",
        "19 20",
        "12a",
        "data",
        "unit, seed, shares, and what part of the test set leaks",
    ),
    _in_part(
        "size of the sample",
        "21",
        "10",
        "data scores",
        "its size and intervals; no size was aimed at",
    ),
    _answered(
        "the model", "22", "12c 22", "card recipe", "architecture, parameters, every setting"
    ),
    _in_part("software", "23", "", "card", "skinjax; your environment's versions: pip freeze"),
    _answered("first weights", "24", "", "recipe", "their seed or their source"),
    _answered("training", "25", "", "recipe training", "settings, augmentation, curves"),
    _answered("choice of the checkpoint", "26", "", "training", "by one score on val"),
    _answered("averages of models or views", "27", "", "card recipe", "of weights, of flips"),
    _answered("class imbalance", "", "13", "recipe", "sampling and weights of the loss"),
    _answered("measures", "28", "12e", "scores", "each with its baseline"),
    _answered(
        "output and thresholds", "", "12g 15", "card", "what the model gives, and where it is cut"
    ),
    _answered("uncertainty", "29", "", "scores", "95%, by a bootstrap over lesions"),
    _authors("robustness", "30", "", "other seeds, folds and data sets: run them and compare"),
    _authors("explanations", "31", "", "maps, and how they were checked"),
    _answered("test on the run's own data", "32", "", "own_test", "its test part"),
    _in_part(
        "test on other data, and how they differ",
        "33",
        "16",
        "other_data",
        "the scores; how the data differ is yours",
    ),
    _in_part(
        "numbers of pictures and lesions", "35", "20a 21", "data", "by part; not who was excluded"
    ),
    _answered(
        "age, sex, diagnosis of each part",
        "36",
        "20b 20c",
        "people",
        "as far as the data tell them",
    ),
    _answered(
        "performance", "37 38", "23a", "scores", "the headline figures with intervals; by group too"
    ),
    _answered(
        "differences between groups", "", "12d 23b", "groups", "age, sex, site, diagnosis, skin"
    ),
    _in_part("fairness", "", "14", "groups", "the figures by group; what follows is yours"),
    _answered("mistakes", "39", "", "gallery", "the worst pictures of each class"),
    _in_part(
        "limits", "40", "26", "card", "those of data and model; those of your study are yours"
    ),
    _authors("updating of the model", "", "12f 24", "if it was changed for new data"),
    _authors(
        "meaning, use in practice, next steps",
        "41",
        "25 27a 27b 27c",
        "what the scores mean, what bad pictures do, who must be at hand",
    ),
    _authors("protocol and registration", "34 42", "18c 18d", "where they are"),
    _in_part(
        "data and code to be had",
        "43",
        "18e 18f",
        "card",
        "data and code; the model is yours to give",
    ),
    _authors("ethics, funding, interests", "44", "17 18a 18b", "approval, money, conflicts"),
    _authors("patients and public", "", "19", "how they took part"),
)


def checklist_table(sections: Mapping[str, str]) -> Table:
    """The table of what is answered and what is not, the answered first.

    Args:
      sections: what the page has, by the names in `ITEMS`, and the section that each stands in.
    """
    rows: dict[str, list[list[str | Link]]] = {ANSWERED: [], IN_PART: [], AUTHORS: []}
    for item in ITEMS:
        there = [name for name in item.sections if name in sections]
        status = (ANSWERED if item.whole else IN_PART) if there else AUTHORS
        cell: str | Link = Link(status, sections[there[0]]) if there else status
        rows[status].append(
            [item.topic, ", ".join(item.claim), ", ".join(item.tripod), cell, item.words]
        )
    return Table(
        ("what is asked", "CLAIM 2024", "TRIPOD+AI", "here", "what the page says, or you must"),
        [row for part in rows.values() for row in part],
        text_columns=5,
        wrap=True,
    )
