"""From a configuration to its data: prepared, split, and read as examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from skinjax.data import splits as splitting
from skinjax.data.archives import cache_folder
from skinjax.data.catalog import create_source
from skinjax.data.combined import Combined, shared_lesions, shared_numbers, shared_pictures
from skinjax.data.pipeline import Examples, Order
from skinjax.data.records import ABOUT, Prepared, prepare
from skinjax.data.table import Row
from skinjax.engine.distributed import is_main
from skinjax.errors import UserError
from skinjax.process import host_bytes


def prepare_data(config: ConfigDict) -> Prepared | Combined:
    """Prepares the configuration's data sets, or finds them prepared.

    Raises:
        UserError: for what is wrong with them.
    """
    unit = config.data.split
    first = prepare_set(config, config.data.dataset, config.data.source, unit)
    others = [prepare_set(config, name, source, unit) for name, source, _ in config.data.also]
    return Combined([first, *others]) if others else first


def prepare_set(config: ConfigDict, dataset: str, source: str, unit: str = "image") -> Prepared:
    """Prepares one data set for the configuration's task, or finds it prepared.

    Args:
        config: of the run.
        dataset: the name of the data set.
        source: its folder or zip, or the folder of the prepared data set; empty for the phantom.
        unit: 'lesion' where it will be divided by lesions, and so has to tell them.

    Raises:
        UserError: for what is wrong with it.
    """
    cache_dir = cache_folder(config.data.cache_dir)
    if source and (Path(source).expanduser() / ABOUT).is_file():
        return _open_prepared(config, dataset, Path(source).expanduser())
    options: dict[str, Any] = {"masks": config.task != "classification"}
    if dataset == "phantom":
        options = {"num_images": config.data.num_images} if config.data.num_images else {}
    elif dataset == "folder":
        options = dict(**options, **config.data.table)
    opened = create_source(dataset, source or None, cache_dir, **options)
    # Where nobody publishes them, `split_data` says what that means for the scores.
    if unit == "lesion" and not opened.has_lesion_ids and opened.lesion_ids_mend:
        raise UserError(
            f"{dataset} in {source} has no lesion ids, so that a split "
            f"by lesion cannot be made: {opened.lesion_ids_mend}, or set "
            "config.data.split='image' and know that a lesion may then be on both sides."
        )
    return prepare(
        opened,
        cache_dir,
        size=config.data.size,
        num_threads=config.data.num_threads,
        max_pixels=config.data.max_pixels,
    )


def _open_prepared(config: ConfigDict, dataset: str, folder: Path) -> Prepared:
    """Opens what was prepared elsewhere and copied here, without the data set's own files.

    Raises:
        UserError: where it is another data set or of another size than the configuration says.
    """
    prepared = Prepared(folder)
    if prepared.name != dataset:
        raise UserError(
            f"{folder} holds {prepared.name}, prepared, and not {dataset}: set config.data.dataset "
            f"to {prepared.name!r}, or config.data.source to a folder with {dataset}."
        )
    if prepared.size != config.data.size:
        raise UserError(
            f"{folder} was prepared with config.data.size={prepared.size}, and it is now "
            f"{config.data.size}: set it back, or config.data.source to the data set's own files."
        )
    return prepared


def split_data(config: ConfigDict, prepared: Prepared | Combined) -> dict[str, list[int]]:
    """Splits the data as the configuration says: positions by 'train', 'val' and 'test'.

    Of the data sets that are added to the first one, the training part alone is used.
    """
    if not isinstance(prepared, Combined):
        return _split_set(config, prepared.name, prepared.table, prepared.has_lesion_ids)
    splits: dict[str, list[int]] = {}
    for index, name in enumerate(prepared.set_names):
        positions = prepared.positions(index)
        rows = [prepared.table[position] for position in positions]
        own = _split_set(config, name, rows, prepared.tells_lesions[index], is_scored=index == 0)
        moved = {part: [positions[p] for p in members] for part, members in own.items()}
        if index == 0:
            splits = moved
            continue
        if config.task != "segmentation":
            moved["train"] = [p for p in moved["train"] if prepared.table[p].label]
        splits["train"] += moved["train"]
    _refuse_across(prepared, splits)
    return splits


def refuse_trained(
    config: ConfigDict, splits_file: Path, tested: Prepared, positions: list[int]
) -> None:
    """Refuses to score a run on pictures or lesions that it was trained on, or chosen on.

    Its val counts: the checkpoint and the temperature were chosen there. Pictures are told by
    number or by content. Where the run's own data is not there to be compared with, by number
    alone, with a warning.

    Args:
        config: of the run.
        splits_file: its splits.csv.
        tested: a data set that is not the run's own.
        positions: of the pictures to be scored.

    Raises:
        UserError: with the count of those that were trained on or chosen on.
    """
    what = f"the {len(positions):,} images of {tested.name}"
    try:
        trained = prepare_data(config)
    except UserError as error:
        logging.warning(
            "The run's own data cannot be read (%s) Pictures and lesions that it has learnt "
            "from are told by their numbers in the ISIC archive alone, not by their content.",
            error,
        )
        parts = splitting.read_splits(splits_file)
        ours = parts["train"] + parts["val"]
        theirs = [tested.table[position] for position in positions]
        numbers = shared_numbers([r.image_id for r in ours], [r.image_id for r in theirs])
        _refuse(sorted({*numbers, *shared_lesions(ours, theirs)}), what, "the run's train or val")
        return
    learnt = [p for part in ("train", "val") for p in read_split(splits_file, trained, part)]
    _refuse(_shared(trained, learnt, tested, positions), what, "the run's train or val")


def _refuse_across(combined: Combined, splits: dict[str, list[int]]) -> None:
    """Refuses pictures of an added set that train and of the first, which alone is scored.

    Within a set, its split decides, and an audit tells of its near-duplicates.
    """
    added = [position for position in splits["train"] if combined.set_index(position) > 0]
    shared = _shared(combined, added, combined, splits["val"] + splits["test"])
    _refuse(shared, "the val and test images", "training")


def _shared(
    trained: Prepared | Combined,
    trained_positions: list[int],
    scored: Prepared | Combined,
    scored_positions: list[int],
) -> list[tuple[str, str]]:
    """The image ids of pairs that are one picture, or show one lesion, on two sides."""
    pictures = shared_pictures(
        trained, trained_positions, scored, scored_positions, shown=is_main()
    )
    ours = [trained.table[position] for position in trained_positions]
    theirs = [scored.table[position] for position in scored_positions]
    return sorted({*pictures, *shared_lesions(ours, theirs)})


def _refuse(shared: list[tuple[str, str]], what: str, learnt: str) -> None:
    """Refuses where there are pairs of a picture that is learnt from and one that is scored."""
    if shared:
        listed = ", ".join(f"{ours} = {theirs}" for ours, theirs in shared[:5])
        raise UserError(
            f"{len({theirs for _, theirs in shared}):,} of {what} are in {learnt}, too, or show a "
            f"lesion that is ({listed}{' and more' if len(shared) > 5 else ''}): a score on them "
            "would mean nothing. Take them out of one of the two data sets; --mode=audit with both "
            "as --source lists the pictures."
        )


def _split_set(
    config: ConfigDict,
    name: str,
    table: Sequence[Row],
    has_lesion_ids: bool,
    is_scored: bool = True,
) -> dict[str, list[int]]:
    """Splits one data set's rows, and says what its split is worth."""
    splits = splitting.make_splits(
        table,
        unit=config.data.split,
        seed=config.data.split_seed,
        folds=config.data.folds if name == config.data.dataset else 0,
        fold=config.data.fold,
    )
    if not is_scored:
        return splits
    if not has_lesion_ids:
        logging.warning(
            "%s has no lesion ids: lesions of the test images may be in training, nobody can "
            "tell how many. Scores on them say little about new lesions.",
            name,
        )
    elif share := splitting.leaked_share(table, splits):
        why = "config.data.split='image'" if config.data.split == "image" else "the official split"
        logging.warning(
            "%s: %.1f%% of the test images show a lesion that is also in training. Scores on them "
            "say little about new lesions.",
            why,
            100 * share,
        )
    empty = [part for part, positions in splits.items() if not positions]
    if empty:
        raise UserError(
            f"{name} has too few lesions ({len(table)} images in all): "
            f"its {empty[0]} split is empty. Use more data (config.data.source, "
            "config.data.num_images)."
        )
    return splits


def read_split(path: Path, prepared: Prepared | Combined, split: str) -> list[int]:
    """The positions of a split as a run's splits.csv has it.

    Raises:
        UserError: where there is no such split, or the data set no longer has its images.
    """
    splits = splitting.read_splits(path)
    ids = [row.image_id for row in splits.get(split, ())]
    if not ids:
        names = [name for name, members in splits.items() if members]
        raise UserError(f"--split={split}: {path} has {', '.join(names)}.")
    positions = {row.image_id: position for position, row in enumerate(prepared.table)}
    missing = [image_id for image_id in ids if image_id not in positions]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(ids)} images of the {split} split in {path} are not in "
            f"the data set (first: {missing[0]}): point config.data.source at the data that the "
            "run was trained on."
        )
    return sorted(positions[image_id] for image_id in ids)


def create_examples(
    config: ConfigDict,
    prepared: Prepared | Combined,
    positions: list[int],
    with_masks: bool,
    cache: bool,
) -> Examples:
    """Creates the examples of a split, fitted to the model's input."""
    return Examples(
        prepared,
        positions,
        tuple(config.image_size),
        config.fit,
        with_masks=with_masks,
        cache=cache,
    )


# Of the memory there is, what decoded images may take up: the rest is the model's and others'.
DEVICE_SHARE, HOST_SHARE = 0.25, 0.5


def decoded_bytes(config: ConfigDict, num_examples: int, with_masks: bool) -> int:
    """The bytes of so many decoded images, fitted to the model's input, and of their masks."""
    height, width = config.image_size
    return num_examples * height * width * (4 if with_masks else 3)


def choose_cache(
    config: ConfigDict,
    num_train: int,
    num_val: int,
    with_masks: bool,
    device_bytes: int | None,
    num_processes: int = 1,
) -> str:
    """Where the decoded training images are kept, by what fits, unless the configuration says it.

    Args:
        config: of the run.
        num_train: images of the training split.
        num_val: of val, which are kept in the host's memory wherever those are kept.
        with_masks: whether masks are kept beside the images.
        device_bytes: memory of a device; None where it is the host's.
        num_processes: that share the host's memory, each of which comes to keep all images.

    Returns:
        'device', 'host' or 'none'.
    """
    if config.data.cache != "auto":
        return config.data.cache
    train, val = (decoded_bytes(config, n, with_masks) for n in (num_train, num_val))
    host = HOST_SHARE * host_bytes() / num_processes
    if device_bytes and train <= DEVICE_SHARE * device_bytes and val <= host:
        return "device"
    return "host" if train + val <= host else "none"


def check_labels(prepared: Prepared | Combined, positions: list[int]) -> None:
    """Makes sure that the images at some positions have labels.

    Raises:
        UserError: where one has none.
    """
    for position in positions:
        row = prepared.table[position]
        if row.label is None:
            raise UserError(
                f"{row.image_id} of {prepared.name} has no label: give it one in the data set's "
                "table, or take it out."
            )


def class_shares(
    config: ConfigDict, prepared: Prepared | Combined, positions: list[int]
) -> tuple[float, ...]:
    """The share of each class among the images that a training draws.

    Args:
        config: of the run: how it samples.
        prepared: the data set.
        positions: of the training split.

    Raises:
        UserError: where an image has no label, or a class no image, or there is but one class.
    """
    check_labels(prepared, positions)
    if len(prepared.classes) < 2:
        raise UserError(
            f"{prepared.name} has one class, {', '.join(prepared.classes)}: there is nothing to "
            "tell apart. Add images of another."
        )
    labels = np.array([prepared.classes.index(prepared.table[p].label or "") for p in positions])
    present = np.unique(labels)
    empty = [name for k, name in enumerate(prepared.classes) if k not in present]
    if empty:
        raise UserError(
            f"The training split of {prepared.name} has no image of {', '.join(empty)}: use more "
            "data, or another config.data.split_seed."
        )
    sets = np.array([prepared.set_index(position) for position in positions])
    order = Order(labels, config.data.sampling, config.seed, sets, set_weights(config))
    return tuple(order.class_shares(len(prepared.classes)).tolist())


def set_weights(config: ConfigDict) -> tuple[float, ...]:
    """How often the pictures of each data set are drawn, beside those of the first."""
    return (1.0, *(weight for _, _, weight in config.data.also))
