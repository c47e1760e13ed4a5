"""Several prepared data sets as one, and the pictures that two of them share."""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skinjax.data.classes import match_classes
from skinjax.data.near_duplicates import ORIENTATIONS, find_pairs, make_hashes
from skinjax.data.records import Prepared
from skinjax.data.table import Row
from skinjax.progress import progress

# The archive's numbers mean the same picture in every data set drawn from it.
_ARCHIVE_ID = re.compile(r"(isic_\d+)(?:_downsampled)?", re.IGNORECASE)
# As the tables of ISIC 2018 and 2019 name lesions, by where they come from: HAM10000 does likewise.
_ARCHIVE_LESION = re.compile(r"(HAM|BCN|MSK\d*)_\d+")


class Combined:
    """The first data set with others added to it, as `records.Prepared` is to its readers.

    The first one's classes are those of all: labels of the others are put into them by
    `classes.match_classes`, and are None where they answer to none. Ids of the others get their
    set's name in front, so that all differ.

    Args:
        members: The data sets; the names of the others differ from the first one's.
    """

    def __init__(self, members: Sequence[Prepared]):
        self._members = list(members)
        first = self._members[0]
        self.classes = first.classes
        self.set_names = tuple(member.name for member in self._members)
        self.name = "+".join(self.set_names)
        self.tells_lesions = tuple(member.has_lesion_ids for member in self._members)
        self.has_lesion_ids = all(self.tells_lesions)
        self.table: list[Row] = list(first.table)
        self._starts = [0]
        for member in self._members[1:]:
            self._starts.append(len(self.table))
            self.table += _adopted(member, first.classes)

    def __len__(self) -> int:
        return len(self.table)

    def set_index(self, position: int) -> int:
        """The index of a picture's data set in `set_names`."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def positions(self, index: int) -> range:
        """The positions of a data set's pictures."""
        return range(self._starts[index], self._starts[index] + len(self._members[index]))

    def thumbnails(self) -> np.ndarray:
        """What two data sets are compared by: uint8 [N, 32, 32], see `near_duplicates`."""
        return np.concatenate([member.thumbnails() for member in self._members])

    def read(self, position: int) -> tuple[bytes, bytes | None]:
        """Reads the encoded picture and mask (None where there is none) at a position."""
        index = self.set_index(position)
        return self._members[index].read(position - self._starts[index])


def _adopted(member: Prepared, classes: tuple[str, ...]) -> list[Row]:
    """A data set's rows with its name before their ids and their labels in other classes."""
    match = match_classes(classes, member.classes)
    # A class that stands for several of the first set's teaches none of them.
    single = dict(zip(match.of_model, classes, strict=True))
    names = {
        name: single[index]
        for name, index in zip(member.classes, match.of_data, strict=True)
        if index >= 0 and match.of_model.count(index) == 1
    }
    return [
        replace(
            row,
            image_id=f"{member.name}/{row.image_id}",
            lesion_id=f"{member.name}/{row.lesion_id}",
            label=names.get(row.label or ""),
        )
        for row in member.table
    ]


def shared_pictures(
    first: Prepared | Combined,
    first_positions: Sequence[int],
    second: Prepared | Combined,
    second_positions: Sequence[int],
    *,
    shown: bool = True,
) -> list[tuple[str, str]]:
    """The pictures that two sides share, by their number in the ISIC archive or by their content.

    Content is compared as `near_duplicates` does it: re-encoded, resized, flipped and turned copies
    are found. Shows its progress.

    Args:
        first: The data set of one side.
        first_positions: Its pictures that are compared.
        second: That of the other side; it may be the same.
        second_positions: Likewise.
        shown: False where another process shows the progress.

    Returns:
        The image ids on the first and on the second side.
    """
    ours = [first.table[position].image_id for position in first_positions]
    theirs = [second.table[position].image_id for position in second_positions]
    shared = set(shared_numbers(ours, theirs))
    thumbnails = np.concatenate(
        [first.thumbnails()[list(first_positions)], second.thumbnails()[list(second_positions)]]
    )
    hashes = np.empty((len(thumbnails), len(ORIENTATIONS)), np.uint64)
    with progress(
        "comparing pictures learnt from and scored", len(thumbnails), shown=shown
    ) as update:
        for index, thumbnail in enumerate(thumbnails):
            hashes[index] = make_hashes(thumbnail)
            update(1)
    for pair in find_pairs(thumbnails, hashes):
        if pair.first < len(ours) <= pair.second:
            shared.add((ours[pair.first], theirs[pair.second - len(ours)]))
    return sorted(shared)


def shared_lesions(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[str, str]]:
    """The image ids of two sides' pictures of one lesion, by its name in the ISIC archive.

    A number that a data set has given by itself means nothing in another.
    """
    by_lesion: dict[str, list[str]] = {}
    for row in second:
        if name := _archive_lesion(row.lesion_id):
            by_lesion.setdefault(name, []).append(row.image_id)
    return [
        (row.image_id, other)
        for row in first
        for other in by_lesion.get(_archive_lesion(row.lesion_id) or "", ())
    ]


def _archive_lesion(lesion_id: str) -> str | None:
    """The lesion's name in the archive, without its data set's name; None for others."""
    name = lesion_id.split("/")[-1].upper()
    return name if _ARCHIVE_LESION.fullmatch(name) else None


def shared_numbers(first_ids: Sequence[str], second_ids: Sequence[str]) -> list[tuple[str, str]]:
    """The image ids of two sides that are the same picture by its number in the ISIC archive."""
    by_number = {_archive_id(image_id): image_id for image_id in second_ids}
    by_number.pop(None, None)
    return [
        (image_id, by_number[number])
        for image_id in first_ids
        if (number := _archive_id(image_id)) in by_number
    ]


def _archive_id(image_id: str) -> str | None:
    """The picture's name in the ISIC archive, without its data set's name; None for others."""
    match = _ARCHIVE_ID.fullmatch(image_id.split("/")[-1])
    return match[1].lower() if match else None
