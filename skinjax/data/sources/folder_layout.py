"""A user's own folder: which files are pictures, masks and tables, and which mask is whose."""

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from skinjax.data.archives import zip_names
from skinjax.data.sources.files import File, Found, is_copy
from skinjax.errors import UserError

PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
PARTS |= {"test": "test", "testing": "test"}

_MAX_NESTED_ZIPS = 3

PICTURE = re.compile(r".+\.(?:jpe?g|png|bmp|tiff?|gif|webp|ppm|jp2)", re.IGNORECASE)
_TABLE = re.compile(r".+\.(?:csv|tsv|tab|txt)", re.IGNORECASE)

# What comes before belongs to the name: train_masks go with train_images. Of the short ones a word
# may be made that means something else.
_MASK_FOLDER = re.compile(
    r"(.*?)[ _.-]*(?:masks?|segmentations?|ground[ _-]?truths?|annotations?|labels?)"
    r"|(?:(.*)[ _.-])?(?:gts?|segs?)",
    re.IGNORECASE,
)
_IMAGE_FOLDER = re.compile(
    r"(.*?)[ _.-]*(?:images?|imgs?|pictures?|photos?|inputs?)", re.IGNORECASE
)
_MASK_STEM = re.compile(
    r"(.+)[ _.-](masks?|segmentations?|segs?|lesions?|gts?|ground[ _-]?truths?)", re.IGNORECASE
)


def collect(
    root: Path, cache_dir: str | Path, depth: int = 0
) -> tuple[dict[str, File], dict[str, File]]:
    """Finds pictures and tables in a folder or zip, and in the zips there.

    Args:
      root: The folder or zip.
      cache_dir: Where zips are unpacked.
      depth: In how many zips it lies.

    Returns:
      The pictures and the tables by their paths, '/' between the parts. What lies in a zip has the
      path that it would have, were the zip unpacked into a folder of its name.

    Raises:
      UserError: There is no such folder or zip, or a zip cannot be unpacked.
    """
    # `Found` unpacks all zips to one place. Here a zip's name says what it holds (masks.zip), and
    # files of the same name in two zips are two files.
    found = Found(_classify, cache_dir)
    found.add_source(root, "your pictures")
    pictures, tables = dict(found["picture"]), dict(found["table"])
    for place, archive in sorted(found["archive"].items()):
        names = [name for name in zip_names(Path(archive.path)) if _classify(name)[0]]
        top = {name.split("/")[0] for name in names if "/" in name}
        is_flat = any("/" not in name for name in names)
        above, stem = posixpath.dirname(place), posixpath.basename(place)[: -len(".zip")]
        folder = posixpath.join(above, stem)
        if not is_flat and len(top) == 1 and _is_wrapped(next(iter(top)), stem):
            folder = above
        # Who unpacked by hand and kept the zip has everything already.
        known = pictures.keys() | tables.keys()
        if all(
            posixpath.join(folder, name) in known
            or ("/" in name and posixpath.join(above, name) in known)
            for name in names
        ):
            continue
        if depth == _MAX_NESTED_ZIPS:
            raise UserError(
                f"{archive.path} lies in a zip in a zip in a zip: unpack them and give the folder."
            )
        inside = collect(Path(archive.path), cache_dir, depth + 1)
        for files, more in zip((pictures, tables), inside, strict=True):
            for name, file in more.items():
                path = posixpath.join(folder, name)
                other = files.setdefault(path, replace(file, relative=path))
                if not is_copy(other, file):
                    raise UserError(
                        f"{other.path} and {path} in {archive.path} differ: leave only the right "
                        "one there."
                    )
    return pictures, tables


def stem_of(path: str) -> str:
    """A path without its extension."""
    return posixpath.splitext(path)[0]


class Paths:
    """Paths that can be looked up by their ends, as people write them in tables.

    Letters may be upper or lower case, and accents written in either of Unicode's ways, where only
    one path is meant.

    Args:
      paths: All that there are.
    """

    def __init__(self, paths: Iterable[str]):
        paths = sorted(paths)
        # Where a whole set lies in one folder, what stands in tables begins below it.
        self._root = posixpath.commonpath([posixpath.dirname(path) for path in paths] or [""])
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._whole = {path: [path] for path in paths}
        self._whole_stems: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            self._whole_stems[stem_of(path)].append(path)
            name = _fold(posixpath.basename(path))
            self._by_name[name].append(path)
            self._by_stem[stem_of(name)].append(path)

    def find(self, value: str, beside: str = "") -> list[str]:
        """Those that a value may mean: one where it is clear, none where there is no such file.

        Args:
          value: A file's name or path, with or without extension.
          beside: The folder of the table that it stands in.
        """
        value = posixpath.normpath(value.replace("\\", "/"))
        name = _fold(posixpath.basename(value))
        names, stems = (self._by_name, self._whole), (self._by_stem, self._whole_stems)
        for (named, whole), cut in ((names, str), (stems, stem_of)):
            for root in (beside, "", self._root):
                exact = whole.get(posixpath.normpath(posixpath.join(root, value)), [])
                if len(exact) == 1:
                    return exact
            ends = [path for path in named.get(name, ()) if _ends_with(cut(path), value)]
            if ends:
                # Of names that differ in their letters' case, the one that is written so.
                as_written = [path for path in ends if f"/{cut(path)}".endswith(f"/{value}")]
                return as_written or ends
        return []


@dataclass(frozen=True)
class Masks:
    """Which pictures are masks, and whose.

    Attributes:
      paths: All masks.
      by_image: The mask of each image that has one.
      folders: The images' folders, of those masks that lie in folders of their own.
    """

    paths: frozenset[str]
    by_image: Mapping[str, str]
    folders: frozenset[str]


def in_mask_folders(pictures: Iterable[str]) -> dict[str, list[str]]:
    """The pictures in folders that are called masks and the like, by these folders."""
    folders: dict[str, list[str]] = defaultdict(list)
    for path in sorted(pictures):
        if (folder := _mask_folder(path)) is not None:
            folders[folder].append(path)
    return dict(folders)


def find_masks(pictures: Collection[str]) -> Masks:
    """Tells masks from images by the names of folders and files, and pairs them.

    Args:
      pictures: The paths of both.

    Raises:
      UserError: An image has two masks.
    """
    folders = in_mask_folders(pictures)
    in_folders = {path for masks in folders.values() for path in masks}
    others = sorted(set(pictures) - in_folders)

    # `big_lesion.jpg` alone is an image; beside `big.jpg` it is its mask. Where one of an ending
    # is a mask, all are.
    stems = {_fold(stem_of(path)) for path in others}
    endings = {
        match[2].casefold()
        for path in others
        if (match := _MASK_STEM.fullmatch(stem_of(path))) and _fold(match[1]) in stems
    }
    beside = {
        path: match[1]
        for path in others
        if (match := _MASK_STEM.fullmatch(stem_of(path))) and match[2].casefold() in endings
    }
    index: dict[str, list[str]] = defaultdict(list)
    for path in others:
        if path not in beside:
            index[_fold(stem_of(path))].append(path)

    by_image: dict[str, str] = {}

    def add(image: str, mask: str) -> None:
        if by_image.setdefault(image, mask) != mask:
            raise UserError(
                f"{image} has two masks, {by_image[image]} and {mask}: leave only the right one "
                "there, or name it in a table (config.data.table.mask_column)."
            )

    for mask, stem in beside.items():
        if image := _image_of(index, stem):
            add(image, mask)
    image_folders = set()
    entries: dict[str, set[str]] = defaultdict(set)  # of each folder: those with images, '' itself
    for path in {*others} - beside.keys():
        for folder in _folders_of(path):
            below, _, rest = path[len(folder) :].lstrip("/").partition("/")
            entries[folder].add(below if rest else "")
    for folder, masks in folders.items():
        best: dict[str, str] = {}
        for candidate in _image_folders(folder, entries[posixpath.dirname(folder)]):
            pairs: dict[str, str] = {}
            for mask in masks:
                stem = posixpath.join(candidate, stem_of(mask[len(folder) + 1 :]))
                image = _image_of(index, stem)
                if not image and (match := _MASK_STEM.fullmatch(stem)):
                    image = _image_of(index, match[1])
                if image:
                    pairs[mask] = image
            if len(pairs) > len(best):
                best, image_folder = pairs, candidate
        if best:
            image_folders.add(image_folder)
        for mask, image in best.items():
            add(image, mask)
    return Masks(frozenset(in_folders | beside.keys()), by_image, frozenset(image_folders))


def image_ids(images: Iterable[str], image_folders: Iterable[str]) -> dict[str, str]:
    """Names each image by its path below the folder of all, without extension.

    Args:
      images: Their paths.
      image_folders: The images' folders as their masks tell them.

    Returns:
      The ids by path.

    Raises:
      UserError: Two have the same id.
    """
    images, known = sorted(images), frozenset(image_folders)
    if known and not any(known.isdisjoint(_folders_of(path)) for path in images):
        base = posixpath.commonpath(known)
    else:
        base = posixpath.commonpath([posixpath.dirname(path) for path in images])
        folders = base.split("/")
        for length in range(len(folders), 0, -1):
            # images/left/1.jpg is left/1, whether or not there is an images/right.
            if _IMAGE_FOLDER.fullmatch(folders[length - 1]):
                base = "/".join(folders[:length])
                break
    paths: dict[str, str] = {}
    for path in images:
        image_id = stem_of(posixpath.relpath(path, base or "."))
        if image_id in paths:
            raise UserError(
                f"{paths[image_id]} and {path} would both be the image {image_id}: rename or "
                "remove one (a mask lies in a folder masks, or is called "
                f"{posixpath.basename(image_id)}_mask)."
            )
        paths[image_id] = path
    return {path: image_id for image_id, path in paths.items()}


def parts_and_classes(ids: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Reads the parts of an official split, and the classes, off the images' folders.

    Args:
      ids: The images' ids by path.

    Returns:
      Part and class by path. The class is the first folder below the part; None without one.

    Raises:
      UserError: Only some lie in folders of parts, or none in train.
    """
    folders: dict[str, list[str]] = {}
    parts: dict[str, str | None] = {}
    for path, image_id in ids.items():
        # Of train/images/nevus/1, images says nothing.
        names = [(_prefix(_IMAGE_FOLDER, name), name) for name in image_id.split("/")[:-1]]
        folders[path] = [name for prefix, name in names if prefix != ""]
        parts[path] = PARTS.get((names[0][0] or names[0][1]).casefold()) if names else None
    known = sorted({part for part in parts.values() if part})
    if known:
        if None in parts.values():
            odd = next(path for path, part in parts.items() if part is None)
            raise UserError(
                f"Some pictures lie in the folders {', '.join(known)} and others, as {odd}, do "
                "not: move them into train, val or test, or give these folders other names."
            )
        require_train(known, "folders")
        folders = {path: names[1:] for path, names in folders.items()}
    if known == ["train"]:
        # Nothing is set apart, so that all is still to be divided.
        parts = dict.fromkeys(parts)
    return {path: (parts[path], names[0] if names else None) for path, names in folders.items()}


def require_train(parts: Iterable[str | None], what: str) -> None:
    """Refuses parts of which none is for training."""
    known = {part for part in parts if part}
    if known and "train" not in known:
        raise UserError(
            f"There are the {what} {', '.join(sorted(known))} and no train: name the pictures to "
            "train with so, or give config.data.source as one folder without parts."
        )


def _classify(path: str) -> tuple[str, str]:
    """What a file is; its path is its key."""
    name = path.split("/")[-1]
    if PICTURE.fullmatch(name):
        return "picture", path
    if _TABLE.fullmatch(name):
        return "table", path
    # Not "zip", which `Found` would unpack by itself.
    return ("archive" if name.lower().endswith(".zip") else ""), path


def _is_wrapped(folder: str, stem: str) -> bool:
    """Whether the one folder in a zip says as much as the zip's name, and so replaces it."""
    is_told = _IMAGE_FOLDER.fullmatch(folder) or _MASK_FOLDER.fullmatch(folder)
    return folder.casefold() == stem.casefold() or is_told is not None


def _mask_folder(path: str) -> str | None:
    """The folder of masks that a path lies in, if any: the innermost that is called so."""
    folders = path.split("/")[:-1]
    for length in range(len(folders), 0, -1):
        if _MASK_FOLDER.fullmatch(folders[length - 1]):
            return "/".join(folders[:length])
        # annotations/images/1.jpg is an image.
        if _IMAGE_FOLDER.fullmatch(folders[length - 1]):
            return None
    return None


def _folders_of(path: str) -> Iterator[str]:
    """The folders that a path lies in, the innermost first; the last is '', that of all."""
    while path:
        path = posixpath.dirname(path)
        yield path


def _image_folders(mask_folder: str, entries: Collection[str]) -> list[str]:
    """The folders that the images of a folder of masks may lie in, the likeliest first.

    Only such as can be meant: in a wrong one there may be an image of the same name.

    Args:
      mask_folder: Its path.
      entries: The folders beside it that hold images, and '' where images lie beside it.
    """
    above, _, name = mask_folder.rpartition("/")
    start = f"{above}/" if above else ""
    siblings = sorted(entries)
    prefix = _prefix(_MASK_FOLDER, name) or ""
    named = [
        sibling
        for sibling in siblings
        if sibling
        and (_prefix(_IMAGE_FOLDER, sibling) == prefix or (prefix and _fold(sibling) == prefix))
    ]
    chosen = [*named, *(siblings if len(siblings) == 1 else []), ""]
    return [f"{start}{sibling}".rstrip("/") for sibling in dict.fromkeys(chosen)]


def _prefix(pattern: re.Pattern[str], name: str) -> str | None:
    """What stands before 'images' or 'masks' in a folder's name; None where it is not called so."""
    match = pattern.fullmatch(name)
    return None if match is None else _fold(next(filter(None, match.groups()), ""))


def _image_of(index: Mapping[str, list[str]], stem: str) -> str | None:
    """The one image of a path without extension, if any."""
    found = index.get(_fold(stem), [])
    if len(found) > 1:
        found = [path for path in found if stem_of(path) == stem]
    return found[0] if found else None


def _ends_with(path: str, end: str) -> bool:
    return f"/{_fold(path)}".endswith(f"/{_fold(end)}")


def _fold(text: str) -> str:
    """A name as it is compared: macOS writes é as two characters, and tables write it as one."""
    return unicodedata.normalize("NFC", text).casefold()
