"""Any source -> one set of ArrayRecord files in the cache, made once, whole or not at all."""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from array_record.python import array_record_module
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2

from skinjax.data import images
from skinjax.data.archives import build_folder, disk_error, unreadable
from skinjax.data.near_duplicates import make_thumbnail
from skinjax.data.sources.example import Example, Source
from skinjax.data.table import Row, read_table, write_table
from skinjax.data.threads import map_in_order
from skinjax.errors import UserError
from skinjax.process import num_cores
from skinjax.progress import progress

# A shard has one reader, which threads share; more and smaller files would only cost file handles.
EXAMPLES_PER_SHARD = 8192

# Broken pictures up to this share are left out with a warning; more of them is a broken copy.
MAX_SHARE_LEFT_OUT = 0.01

Encode = Callable[[Example], dict[str, Any] | UserError]

_INDEX = "index.csv"
ABOUT = "prepared.json"
_THUMBNAILS = "thumbnails.npy"


class Prepared:
    """A prepared data set: the encoded pictures and masks, and their table in the same order.

    Attributes:
      directory: The folder that holds it.
      name: The name of the data set.
      classes: The class names, in the order of the labels.
      has_lesion_ids: Whether the data set says which pictures show the same lesion.
      notes: Sentences about what was left out, for the user to read.
      size: Pixels of the pictures' shorter side, at most.
      table: One row a picture, in record order.
    """

    def __init__(self, directory: str | Path):
        """Opens the prepared data set in `directory`.

        Raises:
          UserError: The folder holds none, or a damaged one.
        """
        self.directory = Path(directory)
        self._mend = mend = f"delete the folder {self.directory}, and it will be made anew"
        try:
            about = json.loads((self.directory / ABOUT).read_text(encoding="utf-8"))
            self.name: str = about["name"]
            self.classes: tuple[str, ...] = tuple(about["classes"])
            self.has_lesion_ids: bool = about["has_lesion_ids"]
            self.notes: list[str] = about["notes"]
            self.size: int = about["size"]
            shards = [(s["file"], s["bytes"], s["num_examples"]) for s in about["shards"]]
            self.table: list[Row] = read_table(self.directory / _INDEX)
            self._thumbnails = np.load(self.directory / _THUMBNAILS, mmap_mode="r")
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise UserError(
                f"{self.directory} holds no prepared data set that can be read ({error}): {mend}."
            ) from error
        self._shards: list[Path] = []
        self._starts: list[int] = [0]
        for file, num_bytes, num_examples in shards:
            path = self.directory / file
            if not path.is_file() or path.stat().st_size != num_bytes:
                raise UserError(f"The records {path} are damaged or missing: {mend}.")
            self._shards.append(path)
            self._starts.append(self._starts[-1] + num_examples)
        files = [str(path) for path in self._shards]
        try:
            self._records = grain.sources.ArrayRecordDataSource(files)
        except RuntimeError as error:
            raise UserError(f"The records {', '.join(files)} are damaged: {mend}.") from error
        if {self._starts[-1], len(self._records), len(self._thumbnails)} != {len(self.table)}:
            raise UserError(f"{self.directory / _INDEX} does not fit its records: {mend}.")

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.table)

    def set_index(self, position: int) -> int:
        """Which of the data sets a picture is from: there is but one (`combined.Combined`)."""
        return 0

    def thumbnails(self) -> np.ndarray:
        """What two data sets are compared by: uint8 [N, 32, 32], see `near_duplicates`."""
        return np.array(self._thumbnails)

    def read(self, position: int) -> tuple[bytes, bytes | None]:
        """Reads the encoded picture and mask (None where there is none) at a position of the table.

        It may be called from several threads.

        Raises:
          UserError: The record is damaged.
        """
        if not 0 <= position < len(self.table):
            raise IndexError(f"position {position} of {len(self.table)} records")
        try:
            record = self._records[position]
        except (RuntimeError, ValueError) as error:
            shard = np.searchsorted(self._starts, position, side="right") - 1
            raise UserError(
                f"Record {position - self._starts[shard]} of {self._shards[shard]} (image "
                f"{self.table[position].image_id}) is damaged ({error}): {self._mend}."
            ) from error
        features = tf_example_pb2.Example.FromString(record).features.feature
        mask = features["mask"].bytes_list.value[0] if "mask" in features else None
        return features["image"].bytes_list.value[0], mask


def prepare(
    source: Source,
    cache_dir: str | Path,
    size: int,
    num_threads: int | None = None,
    max_pixels: int = images.MAX_PIXELS,
) -> Prepared:
    """Makes the records of a source in the cache, or finds them there.

    Pictures are reduced so that their shorter side has at most `size` pixels; those that fit and
    are plain (`images.is_plain`) keep their file's bytes. Masks keep their bytes and size always.
    What is found again is told by the source's content, this package's reading code and `size`.

    Args:
      source: The data set.
      cache_dir: The cache; the records go to its `prepared`.
      size: Pixels of the shorter side, at most.
      num_threads: Threads that decode and encode; the number of cores if None.
      max_pixels: The largest height times width of a picture or mask that is read.

    Returns:
      The prepared data set.

    Raises:
      UserError: A mask is broken or has another shape than its picture, more than 1% of the
        pictures are broken, or the cache cannot be written.
    """
    cache_dir = Path(cache_dir).expanduser()
    key = f"{source.name}\n{source.fingerprint()}\n{_code_digest()}\n{size}\n{max_pixels}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    directory = cache_dir / "prepared" / f"{source.name}-{digest}"
    if not directory.is_dir():
        examples = source.examples()
        if not examples:
            raise UserError(f"The data set {source.name} holds no pictures: check its folder.")
        try:
            with build_folder(directory) as folder:
                encode = functools.partial(_encode, size=size, max_pixels=max_pixels)
                num_threads = num_threads or num_cores()
                about = _build(source, examples, folder, encode, num_threads)
                about["size"] = size
                (folder / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        except OSError as error:
            raise disk_error(directory.parent, error) from error
    prepared = Prepared(directory)
    for note in prepared.notes:
        if note not in source.notes:  # a source tells its own when it is opened
            logging.warning("%s", note)
    return prepared


class _Info(tfds.core.DatasetInfo):
    """Keeps TFDS from looking for the data set in its bucket (it leaves a temporary folder)."""

    def initialize_from_bucket(self) -> None:
        """Does nothing: our data sets are in no bucket."""


class _RecordWriter(tfds_writer.ExampleWriter):
    """Tells a failure to write apart from a failure to make an example."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> None:
        """Writes serialized examples to one shard."""
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1")
        for _, serialized in examples:
            with _as_os_error():
                writer.write(serialized)
        with _as_os_error():
            writer.close()


class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """The one TFDS builder of all data sets: prepared examples in, one record set out.

    Shard by shard, because the other kind of builder holds a gigabyte in memory to shuffle it, and
    needs TensorFlow from there on.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self, name: str, num_examples: int, encoded: Iterator[dict[str, Any]], **kwargs: Any
    ):
        self.name = name
        self._num_examples = num_examples
        self._encoded = encoded
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        # As strings of bytes, because a mask's palette would not survive TFDS's own image feature.
        file = tfds.features.Tensor(shape=(), dtype=np.object_)
        mask = tfds.features.Tensor(shape=(), dtype=np.object_, optional=True)
        features = tfds.features.FeaturesDict({"image": file, "mask": mask, "image_id": file})
        return _Info(builder=self, description=f"{self.name}, prepared", features=features)

    # TFDS prints that it downloads and where to, which would be wrong here on both counts.
    def _log_download_bytes(self) -> None:
        pass

    def _log_download_done(self) -> None:
        pass

    def _example_writer(self) -> tfds_writer.ExampleWriter:
        return _RecordWriter(file_format=self.info.file_format)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        num_shards = -(-self._num_examples // EXAMPLES_PER_SHARD)
        return {"all_examples": [self._shard] * num_shards}

    def _shard(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for encoded in itertools.islice(self._encoded, EXAMPLES_PER_SHARD):
            yield encoded["image_id"], encoded
            # TFDS keeps every example of a shard to count them at the end: keep an empty one.
            encoded.clear()


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """ArrayRecord says RuntimeError when a disk is full."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


def _build(
    source: Source, examples: Sequence[Example], folder: Path, encode: Encode, num_threads: int
) -> dict[str, Any]:
    """Fills `folder` with the records and their table; returns what `Prepared` needs to know."""
    rows: list[Row] = []
    thumbnails: list[np.ndarray] = []
    broken: list[UserError] = []
    with contextlib.ExitStack() as stack:
        pool = ThreadPoolExecutor(num_threads, thread_name_prefix="prepare")
        stack.callback(pool.shutdown, cancel_futures=True)
        update = stack.enter_context(progress(f"preparing {source.name}", len(examples)))
        encoded = _encode_all(
            source, examples, encode, pool, 4 * num_threads, rows, thumbnails, broken, update
        )
        builder = _Builder(source.name, len(examples), encoded, data_dir=folder / "tfds")
        builder.download_and_prepare()
    for file in Path(builder.data_dir).iterdir():
        file.rename(folder / file.name)
    shutil.rmtree(folder / "tfds")
    lengths = builder.info.splits["all_examples"].shard_lengths
    paths = sorted(folder.glob("*array_record*"))
    shards = [
        {"file": path.name, "num_examples": length, "bytes": path.stat().st_size}
        for path, length in zip(paths, lengths, strict=True)
        if length
    ]
    notes = list(source.notes)
    if broken:
        notes.append(_broken_note(source, broken, len(examples)))
    write_table(folder / _INDEX, rows)
    np.save(folder / _THUMBNAILS, np.stack(thumbnails))
    return {
        "name": source.name,
        "classes": source.classes,
        "has_lesion_ids": source.has_lesion_ids,
        "notes": notes,
        "shards": shards,
    }


def _encode_all(
    source: Source,
    examples: Sequence[Example],
    encode: Encode,
    pool: ThreadPoolExecutor,
    num_ahead: int,
    rows: list[Row],
    thumbnails: list[np.ndarray],
    broken: list[UserError],
    update: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """Encodes in threads, a bounded number ahead; fills the three lists in the same order."""
    # An error after each broken picture would show one at a time; a whole broken copy stops early.
    num_allowed = int(MAX_SHARE_LEFT_OUT * len(examples))
    num_listed = num_allowed + 20
    checked = _checked(source, examples)
    for example, result in map_in_order(pool, encode, checked, num_ahead):
        update(1)
        if isinstance(result, UserError):
            broken.append(result)
            if len(broken) > num_listed:
                break
            continue
        lesion_id = example.lesion_id or example.image_id
        metadata = dict(example.metadata)
        rows.append(Row(example.image_id, lesion_id, example.label, example.part, metadata))
        thumbnails.append(result.pop("thumbnail"))
        yield result
    if len(broken) > num_allowed:
        raise UserError(_broken_note(source, broken, len(examples)))


def _checked(source: Source, examples: Sequence[Example]) -> Iterator[Example]:
    """The examples, as long as each has an id of its own and a label that the source knows."""
    seen: set[str] = set()
    for example in examples:
        try:
            f"{example.image_id}{example.label}".encode()
        except UnicodeEncodeError as error:
            name = repr(example.image_name)
            raise UserError(f"{name} is not UTF-8: rename the file or its folder.") from error
        if example.image_id in seen:
            raise UserError(
                f"The image id {example.image_id} comes twice in {source.name}: rename or "
                f"remove {example.image_name}."
            )
        seen.add(example.image_id)
        if example.label is not None and example.label not in source.classes:
            raise UserError(
                f"The image {example.image_id} has the label {example.label!r}, which is none "
                f"of {', '.join(source.classes)}: correct it in the table of {source.name}."
            )
        yield example


def _encode(example: Example, size: int, max_pixels: int) -> dict[str, Any] | UserError:
    """Loads, checks and encodes one example; returns the error where the picture is broken."""
    try:
        image_bytes, mask_bytes = example.load()
    except OSError as error:
        raise unreadable(example.file_names, error) from error
    try:
        image = images.decode_image(image_bytes, example.image_name, max_pixels=max_pixels)
    except UserError as error:
        return error
    if mask_bytes is not None:
        mask = images.decode_mask(
            mask_bytes, example.mask_name or example.image_name, max_pixels=max_pixels
        )
        if not images.same_aspect(image.shape[:2], mask.shape):
            raise UserError(
                f"The mask {example.mask_name} has {mask.shape[1]} x {mask.shape[0]} pixels and "
                f"its picture {example.image_name} {image.shape[1]} x {image.shape[0]}: their "
                "aspect ratios differ, so one of them is not the other's."
            )
    reduced = images.shrink(image, size)
    if reduced is not image or not images.is_plain(image_bytes):
        image_bytes = images.encode_image(reduced)
    return {
        "image": image_bytes,
        "mask": mask_bytes,
        "image_id": example.image_id,
        "thumbnail": make_thumbnail(image),
    }


def _broken_note(source: Source, broken: list[UserError], num_examples: int) -> str:
    """One sentence about the pictures that do not decode, with the first ones in full."""
    listed = " ".join(str(error) for error in broken[:5])
    more = f" And {len(broken) - 5} more." if len(broken) > 5 else ""
    return (
        f"{len(broken)} of the {num_examples} pictures of {source.name} cannot be used (up to "
        f"{MAX_SHARE_LEFT_OUT:.0%} are left out): {listed}{more}"
    )


def _code_digest() -> str:
    """A digest of the code that decides what is in the records."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    modules = (Path(__file__), here / "images.py", here / "near_duplicates.py")
    for path in (*modules, *sorted((here / "sources").glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()
