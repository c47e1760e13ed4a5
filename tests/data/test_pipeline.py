"""Batches: each example once an epoch, any position reachable, padding marked."""

import io
import threading

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from skinjax.data.pipeline import Examples, Order, eval_batches, prefetch, train_batches
from skinjax.data.table import Row
from skinjax.errors import UserError


class Memory:
    """A prepared data set in memory: picture k is k everywhere, its mask its left half."""

    classes = ("a", "b", "c")
    second_set_from = 10**6

    def __init__(self, labels, with_masks=True):
        self.table = [Row(f"i{k}", f"l{k}", label, None, {}) for k, label in enumerate(labels)]
        self.with_masks = with_masks
        self.num_reads = 0

    def set_index(self, position):
        return int(position >= self.second_set_from)

    def read(self, position):
        self.num_reads += 1
        image = np.full((12, 16, 3), position, np.uint8)
        mask = np.zeros((24, 32), np.uint8)
        mask[:, :16] = 255
        return encode(image), encode(mask) if self.with_masks else None


def encode(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def create_examples(labels, cache=False, fit="squash", size=(12, 16), with_masks=True):
    prepared = Memory(labels, with_masks)
    return Examples(prepared, range(len(labels)), size, fit, with_masks=True, cache=cache)


def drawn(batches, num):
    return [next(batches)["images"][:, 0, 0, 0] for _ in range(num)]


def test_an_example_is_decoded_and_fitted():
    batch = create_examples(["b", None]).batch([0, 1])
    assert batch["images"].shape == (2, 12, 16, 3) and batch["images"].dtype == np.uint8
    assert batch["masks"].shape == (2, 12, 16, 1) and batch["masks"].dtype == np.uint8
    np.testing.assert_array_equal(batch["masks"][0, :, :8], 1)
    np.testing.assert_array_equal(batch["masks"][0, :, 8:], 0)
    np.testing.assert_array_equal(batch["labels"], [1, -1])
    np.testing.assert_array_equal(batch["boxes"], [[0, 0, 12, 16]] * 2)
    letterboxed = create_examples(["a"], fit="letterbox", size=(16, 16)).batch([0])
    np.testing.assert_array_equal(letterboxed["boxes"], [[2, 0, 12, 16]])
    assert not letterboxed["masks"][0, :2].any() and not letterboxed["masks"][0, 14:].any()


def test_a_missing_mask_is_named():
    with pytest.raises(UserError, match="i0 has no mask"):
        create_examples(["a"], with_masks=False)[0]


@given(
    num=st.integers(1, 40),
    batch_size=st.integers(1, 16),
    seed=st.integers(0, 100),
    start=st.integers(0, 12),
)
def test_each_example_comes_once_an_epoch_and_any_position_can_be_reached(
    num, batch_size, seed, start
):
    order = Order(np.zeros(num, int), 0.0, seed)
    epochs = [list(order.draws(epoch * num, num)) for epoch in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(num))
    again = Order(np.zeros(num, int), 0.0, seed)
    batch = again.draws(start * batch_size, batch_size)  # it may go over several epochs
    np.testing.assert_array_equal(batch, order.draws(0, (start + 1) * batch_size)[-batch_size:])
    np.testing.assert_array_equal(batch[:1], again.draws(start * batch_size, 1))


def test_batches_go_on_from_any_step_as_if_never_stopped():
    examples = create_examples(["a"] * 10)
    whole = drawn(train_batches(examples, 4, seed=3, start=0, num_threads=2), 12)
    for start in (1, 5, 11):
        rest = drawn(train_batches(examples, 4, seed=3, start=start, num_threads=3), 12 - start)
        np.testing.assert_array_equal(rest, whole[start:])
    other = drawn(train_batches(examples, 4, seed=4, start=0, num_threads=2), 12)
    assert not np.array_equal(other, whole)
    first, second = np.concatenate(whole)[:10], np.concatenate(whole)[10:20]
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_the_cache_changes_nothing_but_the_number_of_reads():
    batches = []
    for cache in (False, True):
        examples = create_examples(["a"] * 6, cache=cache)
        iterator = train_batches(examples, 3, seed=0, start=0, num_threads=1)
        batches.append([next(iterator) for _ in range(20)])
        reads = examples._prepared.num_reads
        assert reads == 6 if cache else reads >= 60
    for plain, cached in zip(*batches, strict=True):
        for name, array in plain.items():
            np.testing.assert_array_equal(array, cached[name])


def test_all_examples_at_once_are_the_examples():
    examples = create_examples(["a", "b", None, "c", "a"], fit="letterbox", size=(16, 16))
    stacked, batch = examples.stack(num_threads=3), examples.batch(range(5))
    assert stacked.keys() == batch.keys()
    for name, array in batch.items():
        np.testing.assert_array_equal(stacked[name], array)
        assert stacked[name].dtype == array.dtype


def test_batches_can_be_left_as_indices():
    examples = create_examples(["a"] * 10)
    whole = drawn(train_batches(examples, 4, seed=3, start=5, num_threads=2), 4)
    left = train_batches(examples, 4, seed=3, start=5, num_threads=2, load=np.asarray)
    for images, indices in zip(whole, left, strict=False):
        np.testing.assert_array_equal(images, indices)


def test_processes_share_each_batch_out():
    examples = create_examples(["a"] * 10)
    whole = drawn(train_batches(examples, 4, seed=0, start=2, num_threads=1), 5)
    shares = [
        drawn(train_batches(examples, 4, seed=0, start=2, num_threads=1, rows=rows), 5)
        for rows in ([0, 3], [1, 2])
    ]
    for batch, outer, inner in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(batch, [outer[0], *inner, outer[1]])


def test_an_epoch_goes_on_with_another_number_of_processes():
    num, batch_size, changes_at = 20, 4, 3
    examples = create_examples(["a"] * num)

    def read(num_processes, start, num_batches):
        shares = np.split(np.arange(batch_size), num_processes)
        batches = [train_batches(examples, batch_size, 0, start, 1, rows=r) for r in shares]
        drawn_by_each = [drawn(iterator, num_batches) for iterator in batches]
        return np.concatenate([np.concatenate(share) for share in drawn_by_each])

    before = read(2, 0, changes_at)
    after = read(4, changes_at, num // batch_size - changes_at)
    assert sorted(np.concatenate([before, after])) == list(range(num))


@pytest.mark.parametrize("num", [1, 7, 8, 9])
@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_evaluation_sees_each_example_once_in_batches_of_one_shape(num, process_count):
    examples = create_examples(["a"] * num)
    seen, lengths = [], set()
    for rows in np.split(np.arange(8), process_count):
        batches = list(eval_batches(examples, 8, 2, rows))
        lengths.add(len(batches))
        for batch in batches:
            assert batch["images"].shape == (8 // process_count, 12, 16, 3)
            seen += list(batch["images"][batch["valid"] > 0, 0, 0, 0])
    assert sorted(seen) == list(range(num))
    assert len(lengths) == 1


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    sampling=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_sampling_gives_classes_their_share_and_examples_equal_turns(counts, sampling, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = Order(labels, sampling, seed)
    num = len(labels)
    for epoch in range(3):
        classes = labels[order.draws(epoch * num, num)]
        wanted = np.array(counts) ** (1 - sampling)
        wanted = wanted / wanted.sum() * num
        # A class that would get less than one draw gets one, at the cost of the largest.
        small = wanted < 1
        found = np.bincount(classes, minlength=len(counts))
        assert found.sum() == num and (found >= 1).all()
        if not small.any():
            assert np.abs(found - wanted).max() <= 1
    draws = np.bincount(order.draws(0, 3 * num), minlength=num)
    for k in range(len(counts)):
        of_class = draws[labels == k]
        assert of_class.max() - of_class.min() <= 1


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    weights=st.lists(st.floats(0.2, 5.0), min_size=4, max_size=4),
    sampling=st.sampled_from([0.0, 0.5]),
)
def test_data_sets_get_draws_by_their_size_and_weight(counts, weights, sampling):
    sets = np.repeat(np.arange(len(counts)), counts)
    order = Order(np.zeros(len(sets), int), sampling, 0, sets, weights)
    num = len(sets)
    found = np.bincount(sets[order.draws(0, num)], minlength=len(counts))
    wanted = np.array(counts) * weights[: len(counts)]
    wanted = wanted / wanted.sum() * num
    assert found.sum() == num and (found >= 1).all()
    if (wanted >= 1).all():
        assert np.abs(found - wanted).max() <= 1


def test_one_data_set_of_any_weight_is_as_if_it_had_none():
    labels = np.arange(30) % 4
    plain = Order(labels, 0.5, 3)
    weighed = Order(labels, 0.5, 3, np.zeros(30, int), [0.2])
    np.testing.assert_array_equal(plain.draws(0, 90), weighed.draws(0, 90))


@given(
    sets_of_classes=st.lists(
        st.lists(st.integers(1, 60), min_size=1, max_size=6), min_size=1, max_size=3
    ),
    weights=st.lists(st.floats(0.05, 5.0), min_size=3, max_size=3),
    sampling=st.floats(0, 1),
)
@example([[50, 50, 1, 1, 1, 1], [154]], [0.04, 1.0, 1.0], 0.0)
def test_each_class_of_each_set_is_drawn_and_its_share_is_told(sets_of_classes, weights, sampling):
    sets, labels = np.array(
        [
            (of_set, of_class)
            for of_set, counts in enumerate(sets_of_classes)
            for of_class, count in enumerate(counts)
            for _ in range(count)
        ]
    ).T
    try:
        order = Order(labels, sampling, 0, sets, weights)
    except UserError:
        assume(False)
    drawn = order.draws(0, len(labels))
    assert {*zip(sets[drawn], labels[drawn], strict=True)} == {*zip(sets, labels, strict=True)}
    shares = np.bincount(labels[drawn], minlength=7) / len(labels)
    np.testing.assert_allclose(order.class_shares(7), shares, atol=1e-12)


def test_a_weight_too_small_for_the_classes_is_refused():
    labels, sets = np.arange(10) % 5, np.repeat([0, 1], 5)
    with pytest.raises(UserError, match=r"weight of 0\.01 .* fewer than its 5 classes"):
        Order(labels, 0.0, 0, sets, [1.0, 0.01])


def test_weights_reach_the_batches():
    examples = create_examples(["a"] * 12)
    examples._prepared.second_set_from = 6
    np.testing.assert_array_equal(examples.sets, np.repeat([0, 1], 6))
    batches = train_batches(examples, 4, seed=0, start=0, num_threads=1, weights=(1.0, 3.0))
    seen = np.concatenate(drawn(batches, 3))
    assert np.sum(seen >= 6) == 9


def test_prefetch_keeps_the_order_and_runs_ahead():
    sent = []

    def put(batch):
        sent.append(batch)
        return batch

    iterator = prefetch(iter(range(6)), put, ahead=2)
    assert next(iterator) == 0
    assert sent == [0, 1, 2]
    assert list(iterator) == [1, 2, 3, 4, 5]


def test_every_thread_has_a_batch_to_work_on():
    num_threads = 8
    together, met = threading.Barrier(num_threads), threading.Event()

    def load(indices):
        if not met.is_set():
            together.wait(timeout=20)  # raises where fewer than all are at work
            met.set()
        return indices

    examples = create_examples(["a"] * 64)
    assert len(next(train_batches(examples, 4, 0, 0, num_threads, load=load))) == 4
