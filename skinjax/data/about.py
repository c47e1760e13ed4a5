"""What is to be told of each data set where its scores are: licence, paper, and what it is not."""

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What is to be told of a data set.

    Attributes:
      name: as people write it.
      title: what it is.
      licence: as its publisher states it.
      cite: the papers.
      limits: what its scores do not tell, to stand after its name and a colon.
    """

    name: str
    title: str
    licence: str
    cite: str
    limits: tuple[str, ...] = ()


_NON_COMMERCIAL = "CC BY-NC 4.0: not for commercial use"
_HAM_PAPER = "Tschandl, Rosendahl and Kittler, Sci Data 5:180161 (2018)"
_LIGHT = "its patients are mostly light-skinned, and scores say little about dark skin."
_BENCHMARK = (
    "its pictures were chosen for a challenge; the shares of its classes are not those of a clinic."
)
_HAM = (
    "its pictures come from a practice in Queensland and a department in Vienna, taken over twenty "
    "years with several cameras.",
    _LIGHT,
    "the shares of its classes are not those of a clinic, and rare diagnoses are not in it at all.",
)
_CHALLENGE = "pictures of a challenge of the International Skin Imaging Collaboration"

ABOUT = {
    "phantom": About(
        "phantom",
        "pictures drawn by skinjax",
        "Apache-2.0, as skinjax",
        "skinjax",
        ("its pictures are drawn, and scores on them say nothing about patients.",),
    ),
    "ham10000": About(
        "HAM10000",
        "10,015 dermoscopic pictures from Queensland and Vienna",
        _NON_COMMERCIAL,
        f"{_HAM_PAPER}; outlines: Tschandl et al., Nat Med 26:1229 (2020)",
        _HAM,
    ),
    "isic2016": About(
        "ISIC 2016", _CHALLENGE, "CC0 1.0", "Gutman et al., arXiv:1605.01397", (_BENCHMARK, _LIGHT)
    ),
    "isic2017": About(
        "ISIC 2017", _CHALLENGE, "CC0 1.0", "Codella et al., arXiv:1710.05006", (_BENCHMARK, _LIGHT)
    ),
    "isic2018": About(
        "ISIC 2018",
        _CHALLENGE,
        "outlines (task 1) CC0 1.0; diagnoses (task 3) CC BY-NC 4.0",
        f"Codella et al., arXiv:1902.03368; {_HAM_PAPER}",
        (_BENCHMARK, _LIGHT),
    ),
    "isic2019": About(
        "ISIC 2019",
        _CHALLENGE,
        _NON_COMMERCIAL,
        f"{_HAM_PAPER}; Codella et al., arXiv:1710.05006; Combalia et al., arXiv:1908.02288",
        (_BENCHMARK, _LIGHT),
    ),
    "isic2020": About(
        "ISIC 2020",
        _CHALLENGE,
        _NON_COMMERCIAL,
        "Rotemberg et al., Sci Data 8:34 (2021)",
        (_BENCHMARK, _LIGHT, "most of its benign lesions are not confirmed by histology."),
    ),
    "ph2": About(
        "PH2",
        "200 dermoscopic pictures of the Hospital Pedro Hispano",
        "for research and education only",
        "Mendonca et al., EMBC 2013",
        ("its pictures are of melanocytic lesions from one hospital, all on light skin.",),
    ),
    "dermamnist": About(
        "DermaMNIST",
        "the pictures of HAM10000, reduced",
        _NON_COMMERCIAL,
        f"Yang et al., Sci Data 10:41 (2023); {_HAM_PAPER}",
        ("its split divides lesions, and its scores are too good for new lesions.", *_HAM),
    ),
    "folder": About(
        "folder",
        "pictures of one's own",
        "known to who collected them: state it before you pass this page or the model on",
        "who collected them",
    ),
}
