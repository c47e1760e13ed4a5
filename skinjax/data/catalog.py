"""The names of the data sets that a config may use, and which of them lies in a folder."""

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from skinjax.data.archives import zip_names
from skinjax.data.sources.example import Source
from skinjax.errors import UserError


def _phantom(source: str | Path | None, cache_dir: Path, **options: Any) -> Source:
    from skinjax.data.sources.phantom import PhantomSource

    if source:
        raise UserError(
            f"config.data.source is {str(source)!r}, but the data set 'phantom' is generated and "
            "reads no files: leave it empty, or set config.data.dataset."
        )
    return PhantomSource(**options)


def _ham10000(source: str | Path | None, cache_dir: Path, **options: Any) -> Source:
    from skinjax.data.sources.ham10000 import Ham10000Source

    return Ham10000Source(source, cache_dir, **options)


def _isic(year: int) -> Callable[..., Source]:
    def make(source: str | Path | None, cache_dir: Path, **options: Any) -> Source:
        from skinjax.data.sources.isic import IsicSource

        return IsicSource(year, source, cache_dir, **options)

    return make


def _ph2(source: str | Path | None, cache_dir: Path, **options: Any) -> Source:
    from skinjax.data.sources.ph2 import Ph2Source

    return Ph2Source(source, cache_dir, **options)


def _dermamnist(source: str | Path | None, cache_dir: Path, **options: Any) -> Source:
    from skinjax.data.sources.dermamnist import DermaMnistSource

    return DermaMnistSource(source, cache_dir, **options)


def _folder(source: str | Path | None, cache_dir: Path, **options: Any) -> Source:
    from skinjax.data.sources.folder import FolderSource

    return FolderSource(source, cache_dir, **options)


# Each imports its module on use, so that a run loads the one data set it needs.
_MAKERS: dict[str, Callable[..., Source]] = {
    "phantom": _phantom,
    "ham10000": _ham10000,
    "isic2016": _isic(2016),
    "isic2017": _isic(2017),
    "isic2018": _isic(2018),
    "isic2019": _isic(2019),
    "isic2020": _isic(2020),
    "ph2": _ph2,
    "dermamnist": _dermamnist,
    "folder": _folder,
}

DATASETS = tuple(_MAKERS)

# What a path of a data set's files looks like that no other data set has; the first that fits some
# path is it. Kaggle's copy of HAM10000 with masks is told by its one-hot table.
_SIGNS = {
    "dermamnist": r"dermamnist(_\d+)?\.npz",
    "ph2": r"(^|/)IMD\d+(_Dermoscopic_Image|_lesion)?/",
    "isic2016": r"ISBI2016_ISIC_Part",
    "isic2017": r"ISIC-2017_",
    "ham10000": r"HAM10000_|(^|/)GroundTruth\.csv$",
    "isic2018": r"ISIC2018_Task",
    "isic2019": r"ISIC_2019_",
    "isic2020": r"ISIC_2020_|(^|/)jpeg/train/ISIC_",
}


def create_source(
    name: str, source: str | Path | None, cache_dir: str | Path, **options: Any
) -> Source:
    """Opens a data set by its name.

    Args:
      name: One of `DATASETS`.
      source: The folder or zip it lies in; None for data that is generated.
      cache_dir: Where zips are unpacked.
      **options: Passed on to the data set's class.

    Raises:
      UserError: There is no data set of this name, or it cannot be read.
    """
    if name not in _MAKERS:
        nearest = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        guess = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise UserError(
            f"config.data.dataset is {name!r}, which is no data set: {guess}Known are "
            f"{', '.join(DATASETS)}."
        )
    return _MAKERS[name](source, Path(cache_dir).expanduser(), **options)


def detect_sources(source: str | Path, cache_dir: str | Path) -> list[Source]:
    """Opens what lies in a folder or zip, whatever it is, without refusing what is missing.

    Args:
      source: The folder or zip.
      cache_dir: Where zips are unpacked.

    Returns:
      The data set; two for ISIC 2018, whose outlines and diagnoses are of different pictures, where
      both are there.

    Raises:
      UserError: There is nothing that can be read as a data set.
    """
    root = Path(source).expanduser()
    if not root.exists():
        raise UserError(f"--source={source} does not exist: name the folder or zip of a data set.")
    paths = [f"{root.absolute().name}/{path}" for path in _paths(root)]
    name = "folder"
    for candidate, sign in _SIGNS.items():
        pattern = re.compile(sign, re.IGNORECASE)
        if any(pattern.search(path) for path in paths):
            name = candidate
            break
    if name != "isic2018":
        return [create_source(name, source, cache_dir, masks=False, strict=False)]
    # Outlines and diagnoses are of different pictures, and both may be there.
    kinds = [
        masks
        for masks, sign in ((True, "ISIC2018_Task1"), (False, "ISIC2018_Task3"))
        if any(re.search(sign, path, re.IGNORECASE) for path in paths)
    ]
    return [
        create_source(name, source, cache_dir, masks=masks, strict=False)
        for masks in kinds or [True]
    ]


def _paths(root: Path) -> Iterable[str]:
    """The paths of the files in a folder or zip, and of those in the zips in it."""
    from skinjax.data.sources.files import walk

    if root.is_file():
        return [root.name, *(zip_names(root) if root.suffix.lower() in (".zip", ".npz") else [])]
    paths = []
    for file in walk(root):
        paths.append(file.relative)
        if file.relative.lower().endswith(".zip") and Path(file.path).exists():
            paths += zip_names(Path(file.path))
    return paths
