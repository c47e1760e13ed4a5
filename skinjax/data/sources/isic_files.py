"""The files of the ISIC challenges of 2016 to 2020: what they are called, and finding them."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from skinjax.data.sources.example import CLASSES
from skinjax.data.sources.files import File, Found, stat_file
from skinjax.errors import UserError

IMAGE_ID = r"isic_\d+(?:_downsampled)?"

_IMAGE = re.compile(rf"({IMAGE_ID})\.(?:jpe?g|png)", re.IGNORECASE)
_MASK = re.compile(rf"({IMAGE_ID})_segmentation\.(?:png|jpe?g|bmp|tiff?)", re.IGNORECASE)
_OUR_ZIP = re.compile(r"isic|isbi", re.IGNORECASE)
_LEN_DIGEST = len("-0123456789ab")  # what `unpack` adds to a zip's name
_YEAR = re.compile(r"(?:isic|isbi)[-_ ]*(20\d\d)")
_TASK = re.compile(r"(?:part|task)[-_ ]?(\d)(b?)")
_PARTS = {
    "training": "train",
    "train": "train",
    "validation": "val",
    "valid": "val",
    "val": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Year:
    """A challenge's set and the names of its files, in which {} is the word of a part.

    Attributes:
      classes: The class names, in the order of the labels.
      parts: The words of the parts in the files' names, and the parts they tell.
      labels: The tables of the labels.
      facts: The tables that say more about the images.
      lesions: The table that says which images show the same lesion; empty where none is published.
      masks: The folders of the masks; empty where there are none.
      duplicates: The table of images that are there twice; empty where there is none.
      mask_tasks: The tasks whose images make a segmentation set, the first one's preferred.
      label_tasks: The same of a classification set.
      tasks_apart: Whether the images of other tasks are other images.
    """

    classes: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    labels: tuple[str, ...]
    facts: tuple[str, ...] = ()
    lesions: str = ""
    masks: str = ""
    duplicates: str = ""
    mask_tasks: tuple[str, ...] = ()
    label_tasks: tuple[str, ...] = ()
    tasks_apart: bool = False

    def named(self, pattern: str, part: str) -> str:
        """The name of a part's file."""
        return pattern.format(next((word for word, of in self.parts if of == part), "Training"))

    def tables(self) -> dict[str, tuple[str, str]]:
        """The tables by their plain names: what each is for, and the part it is of."""
        roles = {"labels": self.labels, "facts": self.facts, "duplicates": (self.duplicates,)}
        return {
            plain(pattern.format(word)): (role, part)
            for role, patterns in roles.items()
            for pattern in patterns
            if pattern
            for word, part in self.parts
        }


_TRAIN, _VAL, _TEST = ("Training", "train"), ("Validation", "val"), ("Test", "test")

YEARS = {
    2016: Year(
        classes=("benign", "malignant"),
        parts=(_TRAIN, _TEST),
        labels=("ISBI2016_ISIC_Part3_{}_GroundTruth", "ISBI2016_ISIC_Part3B_{}_GroundTruth"),
        masks="ISBI2016_ISIC_Part1_{}_GroundTruth",
        mask_tasks=("1", "3b"),
        label_tasks=("3", "3b"),
    ),
    2017: Year(
        classes=("mel", "nv", "sk"),
        parts=(_TRAIN, _VAL, ("Test_v2", "test"), _TEST),
        labels=("ISIC-2017_{}_Part3_GroundTruth",),
        facts=("ISIC-2017_{}_Data_metadata",),
        masks="ISIC-2017_{}_Part1_GroundTruth",
    ),
    2018: Year(
        classes=CLASSES,
        parts=(_TRAIN, _VAL, _TEST),
        labels=("ISIC2018_Task3_{}_GroundTruth",),
        facts=("ISIC2018_Task3_{}_LesionGroupings",),
        lesions="ISIC2018_Task3_{}_LesionGroupings",
        masks="ISIC2018_Task1_{}_GroundTruth",
        mask_tasks=("1", ""),
        label_tasks=("3", ""),
        tasks_apart=True,
    ),
    2019: Year(
        classes=("ak", "bcc", "bkl", "df", "mel", "nv", "scc", "vasc"),
        parts=(_TRAIN, _TEST),
        labels=("ISIC_2019_{}_GroundTruth",),
        facts=("ISIC_2019_{}_Metadata",),
        lesions="ISIC_2019_{}_Metadata",
    ),
    2020: Year(
        classes=("benign", "malignant"),
        parts=(_TRAIN,),
        # Kaggle's copy of the table is train.csv.
        labels=("ISIC_2020_{}_GroundTruth", "ISIC_2020_{}_GroundTruth_v2", "train"),
        duplicates="ISIC_2020_{}_Duplicates",
    ),
}


@dataclass(frozen=True)
class Place:
    """What the names of the folders around a file say; the nearest that says it counts."""

    year: int | None
    task: str
    part: str | None


def plain(name: str) -> str:
    """A name in lower case, its letters and digits alone."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def words(name: str) -> list[str]:
    """The words of a name in lower case."""
    return re.split(r"[^a-z0-9]+", name.lower())


def find_place(folders: list[str]) -> Place:
    """What folders, from the outermost to the nearest, say about a file in them."""
    year, task, part = None, "", None
    for folder in folders:
        if match := _YEAR.search(folder.lower()):
            year = int(match[1])
            # Only official names tell the task: HAM10000_images_part_1 is half of its images.
            if match := _TASK.search(folder.lower()):
                task = match[1] + match[2]
        named = {_PARTS[word] for word in words(folder) if word in _PARTS}
        if len(named) == 1:
            part = named.pop()
    return Place(year, task, part)


class IsicFiles:
    """The files of one challenge's set.

    Attributes:
      root: The folder or zip they lie in.
      images: By the image ids in lower case, the files and what their folders say.
      masks: The same of the masks.
    """

    def __init__(self, year: int, root: Path, cache_dir: str | Path, masks: bool):
        """Finds the files.

        Args:
          year: Of the challenge.
          root: The folder or zip they lie in.
          cache_dir: Where zips are unpacked.
          masks: Whether the images of the segmentation set are wanted.

        Raises:
          UserError: There are no images, or one lies in two parts.
        """
        self.root = Path(os.path.abspath(root))
        self._year, self._about = year, YEARS[year]
        self._tasks = self._about.mask_tasks if masks else self._about.label_tasks
        # Where the tasks have images of their own, the tables are on those of the labels.
        self._tables = {} if masks and self._about.tasks_apart else self._about.tables()
        cache_dir = Path(cache_dir).expanduser()
        self._found = Found(self._classify, cache_dir, lambda name: bool(_OUR_ZIP.search(name)))
        self._found.add_source(self.root, f"ISIC {year}")
        self.images, self.masks = self._picked("image"), self._picked("mask")
        if not self.images:
            mend = self._hint(self._holds_images) or (
                "set config.data.source to the folder or zip that holds them."
            )
            raise UserError(
                f"There are no images of ISIC {year} (ISIC_0000000.jpg and the like) in "
                f"{self.root}: {mend}"
            )
        # A zip cannot be added to, so what says more about its images may lie beside it.
        for path in self._neighbours():
            kind, _ = self._classify(path.name)
            if self._tables.get(kind, ("", ""))[0] == "facts" and not self._found[kind]:
                self._found[kind][path.name] = stat_file(str(path), path.name)

    def tables(self, role: str) -> list[tuple[File, str]]:
        """The tables of `labels`, `facts` or `duplicates` in a fixed order, and their parts."""
        return [
            (file, part)
            for kind, (of, part) in self._tables.items()
            if of == role
            for _, file in sorted(self._found[kind].items())
        ]

    def hint_at_truth(self, what: str) -> str:
        """What to do if the `mask`s or `label`s lie beside the source, for messages; or nothing."""
        patterns = (self._about.masks,) if what == "mask" else self._about.labels
        names = {plain(text.format(word)) for text in patterns for word, _ in self._about.parts}
        return self._hint(lambda name: plain(name) in names)

    def _classify(self, path: str) -> tuple[str, str]:
        """What a file is by its path (empty if nothing of ours), and its key."""
        *folders, name = path.split("/")
        stem, ending = os.path.splitext(name.lower())
        is_zip = ending == ".zip"
        place = find_place([*folders, stem] if is_zip else folders)
        if place.year not in (None, self._year) or not self._is_wanted(place):
            return "", ""
        if is_zip:
            return "zip", ""
        if ending == ".csv":
            return (plain(stem) if plain(stem) in self._tables else ""), ""
        if match := _MASK.fullmatch(name):
            return "mask", f"{place.task}/{place.part}/{match[1].lower()}"
        if match := _IMAGE.fullmatch(name):
            # Some rename the masks to their images' names.
            in_masks = bool({"mask", "masks", "groundtruth"} & set(words("".join(folders[-1:]))))
            key = f"{place.task}/{place.part}/{match[1].lower()}"
            return ("mask" if in_masks else "image"), key
        return "", ""

    def _is_wanted(self, place: Place) -> bool:
        """Whether what lies there can be of the set; the test of 2020 has no truth."""
        if self._about.tasks_apart and place.task not in (*self._tasks, ""):
            return False
        return (self._year, place.part) != (2020, "test")

    def _picked(self, kind: str) -> dict[str, tuple[File, Place]]:
        """One file for each image id, the set's own task before others."""
        candidates = []
        for key, file in self._found[kind].items():
            place = self._place(file)
            if self._is_wanted(place):
                known = place.task in self._tasks
                rank = self._tasks.index(place.task) if known else len(self._tasks)
                order = (rank, place.part is None, file.relative)
                candidates.append((order, key.rpartition("/")[2], file, place))
        picked: dict[str, tuple[File, Place]] = {}
        for _, image_id, file, place in sorted(candidates, key=lambda candidate: candidate[0]):
            other, other_place = picked.setdefault(image_id, (file, place))
            if kind == "image" and place.part and place.part != other_place.part:
                raise UserError(
                    f"{other.path} and {file.path} are the same image in two parts: leave only the "
                    "right one there."
                )
        return dict(sorted(picked.items()))

    def _place(self, file: File) -> Place:
        """What the folders around a file say, and the zip it comes from."""
        folders = [_stem(self.root)]
        base = Path(file.path[: -len(file.relative) - 1])
        if base != self.root:
            folders.append(base.name[:-_LEN_DIGEST])
        return find_place([*folders, *file.relative.split(os.sep)[:-1]])

    def _neighbours(self) -> list[Path]:
        """What lies beside the source."""
        parent = self.root.parent
        if not os.access(parent, os.R_OK):
            return []
        return sorted(path for path in parent.iterdir() if path != self.root)

    def _hint(self, is_it: Callable[[str], bool]) -> str:
        """What to do if something lies beside the source that is it by its name; or nothing."""
        for path in self._neighbours():
            if is_it(_stem(path)):
                return (
                    f"{path.name} lies beside it, so set config.data.source={self.root.parent}, "
                    "which holds both."
                )
        return ""

    def _holds_images(self, name: str) -> bool:
        """Whether a folder or zip of this name would hold images of the set."""
        place = find_place([name])
        of_images = bool({"data", "input", "jpeg"} & set(words(name)))
        return of_images and place.year == self._year and self._is_wanted(place)


def _stem(path: Path) -> str:
    """The name of a folder, or of a zip or table without its ending."""
    return path.stem if path.suffix.lower() in (".zip", ".csv") else path.name
