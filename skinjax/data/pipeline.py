"""From prepared records to uint8 batches: examples in order, decoded, fitted and stacked."""

import collections
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import grain.python as grain
import numpy as np

from skinjax.data.images import decode_image, decode_mask, fit_image, fit_mask
from skinjax.data.table import Row
from skinjax.data.threads import map_in_order
from skinjax.errors import UserError
from skinjax.progress import progress

Batch = dict[str, np.ndarray]

# Batches that are decoded ahead of the one in use, at least: enough to hide a slow one, few enough
# to hold in memory. More threads have one each.
BATCHES_AHEAD = 4


class Prepared(Protocol):
    """What the pipeline asks of a prepared data set (`records.Prepared` is one)."""

    @property
    def classes(self) -> Sequence[str]:
        """The class names, in the order of the labels."""

    @property
    def table(self) -> Sequence[Row]:
        """One row a picture."""

    def set_index(self, position: int) -> int:
        """Which of the data sets that it is made of a picture belongs to."""

    def read(self, position: int) -> tuple[bytes, bytes | None]:
        """Reads the encoded image and mask at a position."""


class Examples:
    """The examples of a split, decoded and fitted to the model's input.

    Args:
        prepared: the records.
        positions: of the split's examples in the records' table.
        image_size: height and width of the model's input in pixels.
        fit: 'squash' or 'letterbox': how a picture is brought to that size.
        with_masks: whether masks are read; every example must have one.
        cache: whether what was decoded once is kept in the host's memory (uint8: four bytes a
            pixel).
    """

    def __init__(
        self,
        prepared: Prepared,
        positions: Sequence[int],
        image_size: tuple[int, int],
        fit: str,
        with_masks: bool,
        cache: bool,
    ):
        self._prepared = prepared
        self.positions = list(positions)
        self._image_size = image_size
        self._fit = fit
        self._with_masks = with_masks
        self._cache: dict[int, Batch] | None = {} if cache else None
        self._class_indices = {name: index for index, name in enumerate(prepared.classes)}

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> np.ndarray:
        """The class of each example, int32 [N], -1 for none."""
        rows = (self._prepared.table[position] for position in self.positions)
        return np.array([self._label(row) for row in rows], np.int32)

    @property
    def sets(self) -> np.ndarray:
        """Which data set each example comes from, int32 [N]."""
        return np.array([self._prepared.set_index(p) for p in self.positions], np.int32)

    def _label(self, row: Row) -> int:
        return -1 if row.label is None else self._class_indices[row.label]

    def __getitem__(self, index: int) -> Batch:
        """One example's images, boxes, masks and labels (-1 for none), as a batch has them."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        position = self.positions[index]
        row = self._prepared.table[position]
        image_bytes, mask_bytes = self._prepared.read(position)
        image, box = fit_image(decode_image(image_bytes, row.image_id), self._image_size, self._fit)
        example: Batch = {
            "images": image,
            "boxes": box,
            "labels": np.array(self._label(row), np.int32),
        }
        if self._with_masks:
            if mask_bytes is None:
                raise UserError(f"{row.image_id} has no mask to learn from.")
            mask = decode_mask(mask_bytes, row.image_id)
            example["masks"] = fit_mask(mask, self._image_size, self._fit, box)[..., np.newaxis]
        if self._cache is not None:
            self._cache[index] = example
        return example

    def batch(self, indices: Iterable[int], batch_size: int | None = None) -> Batch:
        """Stacks examples; `valid`, float32 [N], is 1, and 0 for what fills up to `batch_size`."""
        examples = [self[int(index)] for index in indices]
        batch = {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        batch["valid"] = np.ones(len(examples), np.float32)
        missing = (batch_size or len(examples)) - len(examples)
        if missing:
            batch = {
                name: np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
                for name, array in batch.items()
            }
        return batch

    def stack(self, num_threads: int) -> Batch:
        """All examples as one batch, decoded in threads; shows its progress."""
        stacked: Batch = {"valid": np.ones(len(self), np.float32)}
        with (
            ThreadPoolExecutor(num_threads, thread_name_prefix="stack") as pool,
            progress("decoding", len(self)) as update,
        ):
            for index, example in map_in_order(
                pool, self.__getitem__, range(len(self)), 4 * num_threads
            ):
                for name, array in example.items():
                    if name not in stacked:
                        stacked[name] = np.empty((len(self), *array.shape), array.dtype)
                    stacked[name][index] = array
                update(1)
        return stacked


class Order:
    """Which example comes where in a training without end: epochs of as many draws as examples.

    In an epoch, a class of the share s gets draws in proportion to s ** (1 - sampling): at 0 each
    example comes once, at 0.5 classes come by the square roots of their numbers, at 1 all equally
    often. A class's draws go round and round its examples, shuffled anew each round, so that over
    the epochs all of them are seen equally often. An epoch is a function of the seed and its
    number: any position can be reached without what came before it.

    Where the examples come from several data sets, the draws are divided among these first, in
    proportion to their numbers of examples times their weights, and then within each.

    Args:
        labels: int [N], the class of each example.
        sampling: 0 (as they are) to 1 (balanced).
        seed: of the shuffling.
        sets: int [N], the data set of each example; one and the same, unless told.
        weights: of the data sets, by their numbers in `sets`.
    """

    def __init__(
        self,
        labels: np.ndarray,
        sampling: float,
        seed: int,
        sets: np.ndarray | None = None,
        weights: Sequence[float] = (1.0,),
    ):
        self._seed = seed
        sets = np.zeros(len(labels), np.int32) if sets is None else sets
        present = np.unique(sets)
        sizes = np.array([np.sum(sets == s) * weights[s] for s in present])
        self._members: list[np.ndarray] = []
        self._num_draws: list[int] = []
        kinds: list[int] = []
        for s, total in zip(present, _apportion(sizes, len(labels)), strict=True):
            places = np.flatnonzero(sets == s)
            found, classes, counts = np.unique(
                labels[places], return_inverse=True, return_counts=True
            )
            if total < len(counts):
                raise UserError(
                    f"A data set's weight of {weights[s]} gives it {total} draws an epoch, fewer "
                    f"than its {len(counts)} classes: raise the weight in config.data.also."
                )
            self._members += [places[classes == k] for k in range(len(counts))]
            self._num_draws += _apportion(counts ** (1.0 - sampling), total).tolist()
            kinds += found.tolist()
        self._kinds = np.array(kinds)
        self._epoch = functools.lru_cache(maxsize=4)(self._make_epoch)
        self._length = len(labels)

    def class_shares(self, num_classes: int) -> np.ndarray:
        """The share of each class among the draws of an epoch, float64 [num_classes].

        All labels are in 0..num_classes - 1.
        """
        return np.bincount(self._kinds, self._num_draws, num_classes) / self._length

    def draws(self, start: int, number: int) -> np.ndarray:
        """The examples at `number` positions from `start` on, int [number]."""
        found = []
        while number:
            epoch, place = divmod(start, self._length)
            part = self._epoch(epoch)[place : place + number]
            found.append(part)
            start, number = start + len(part), number - len(part)
        return np.concatenate(found)

    def _make_epoch(self, epoch: int) -> np.ndarray:
        draws = []
        for k, (members, num_draws) in enumerate(zip(self._members, self._num_draws, strict=True)):
            places = epoch * num_draws + np.arange(num_draws)
            for this_round in range(places[0] // len(members), places[-1] // len(members) + 1):
                shuffled = np.random.default_rng([self._seed, k, this_round]).permutation(members)
                draws.append(shuffled[places[places // len(members) == this_round] % len(members)])
        rng = np.random.default_rng([self._seed, len(self._members), epoch])
        return rng.permutation(np.concatenate(draws))


class _Batches:
    """An order cut into batches: Grain takes some ten microseconds for each element of a source."""

    def __init__(self, order: Order, batch_size: int):
        self._order, self._batch_size = order, batch_size

    def __len__(self) -> int:
        return sys.maxsize // self._batch_size

    def __getitem__(self, number: int) -> np.ndarray:
        return self._order.draws(int(number) * self._batch_size, self._batch_size)


def _apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to the weights, each at least 1, that add up to the total.

    The total is at least the number of weights.
    """
    exact = weights / weights.sum() * total
    numbers = np.maximum(np.floor(exact), 1).astype(int)
    for k in np.argsort(numbers - exact)[: max(total - numbers.sum(), 0)]:
        numbers[k] += 1
    while numbers.sum() > total:
        numbers[np.argmax(numbers)] -= 1
    return numbers


def train_batches(
    examples: Examples,
    batch_size: int,
    seed: int,
    start: int,
    num_threads: int,
    sampling: float = 0.0,
    weights: Sequence[float] = (1.0,),
    rows: Sequence[int] | np.ndarray | None = None,
    load: Callable[[np.ndarray], Any] | None = None,
) -> Iterator[Any]:
    """Batches of a training without end, in an order that depends on nothing but the seed.

    The examples are shuffled anew each epoch and cut into batches across the epochs' borders, so
    that each example comes once an epoch whatever the batch size. The n-th batch is a function of
    n: the position of a training in its data is one integer, and going on from it needs no reading
    of what came before.

    Args:
        examples: of the training split.
        batch_size: of the global batch.
        seed: of the shuffling.
        start: the batch to begin with.
        num_threads: that decode.
        sampling: how far rare classes are drawn more often (`Order`).
        weights: of the data sets that the examples come from (`Order`).
        rows: of each global batch that this process reads (`engine.parallel.local_rows`); all,
            unless told.
        load: makes a batch of examples' indices; decodes them, unless told.

    Returns:
        An iterator over this process's shares.
    """
    rows = np.arange(batch_size) if rows is None else np.asarray(rows)
    load = load or examples.batch

    def load_share(indices: np.ndarray) -> Any:
        return load(indices[rows])

    order = Order(examples.labels, sampling, seed, examples.sets, weights)
    batches = (
        grain.MapDataset.source(_Batches(order, batch_size))
        .map(load_share)
        .to_iter_dataset(_read_options(num_threads))
    )
    iterator = iter(batches)
    iterator.set_state({"next_index": start})
    return iterator


def eval_batches(
    examples: Examples,
    batch_size: int,
    num_threads: int,
    rows: Sequence[int] | np.ndarray | None = None,
) -> Iterator[Batch]:
    """Each example once, in order; the last batch is filled up with examples whose `valid` is 0.

    Args as `train_batches`. All batches have one shape, and every process gets the same number of
    them.
    """
    rows = np.arange(batch_size) if rows is None else np.asarray(rows)

    def load(first: int) -> Batch:
        indices = first + rows[first + rows < len(examples)]
        if not len(indices):  # this process has no share in the last batch
            empty = examples.batch([0])
            empty["valid"] = np.zeros(1, np.float32)
            return {name: np.repeat(array, len(rows), axis=0) for name, array in empty.items()}
        return examples.batch(indices, len(rows))

    return iter(
        grain.MapDataset.range(0, len(examples), batch_size)
        .map(load)
        .to_iter_dataset(_read_options(num_threads))
    )


def _read_options(num_threads: int) -> grain.ReadOptions:
    """So that each thread has a batch to work on: with fewer ahead, Grain leaves threads idle."""
    return grain.ReadOptions(num_threads, max(num_threads, BATCHES_AHEAD))


def prefetch(batches: Iterable[Any], put: Any, ahead: int = 2) -> Iterator[Any]:
    """Sends batches to the devices some steps before they are needed.

    Args:
        batches: on the host.
        put: sends one, without waiting (`engine.parallel.put_batch`).
        ahead: batches on the device beside the one in use.
    """
    queue: collections.deque[Any] = collections.deque()
    for batch in batches:
        queue.append(put(batch))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue
