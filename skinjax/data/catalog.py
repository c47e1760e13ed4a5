"""The names of the data sets that a config may use."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# Each imports its module on use, so that a run loads the one data set it needs.
_MAKERS: dict[str, Callable[..., Source]] = {"phantom": _phantom, "ham10000": _ham10000}

DATASETS = tuple(_MAKERS)


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
