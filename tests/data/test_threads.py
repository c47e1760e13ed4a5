"""Results in order, a bounded number under way."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from skinjax.data.threads import map_in_order


@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_items_and_results_come_in_order_and_are_taken_when_there_is_room(ahead):
    taken = []

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    with ThreadPoolExecutor(2) as pool:
        results = map_in_order(pool, lambda x: x * x, items(), ahead)
        for count, result in enumerate(results):
            assert result == (count, count * count)
            assert len(taken) <= count + ahead
    assert taken == list(range(10))


def test_an_error_comes_where_its_result_would():
    with ThreadPoolExecutor(2) as pool:
        results = map_in_order(pool, lambda x: 1 // (2 - x), range(5), 4)
        assert [next(results), next(results)] == [(0, 0), (1, 1)]
        with pytest.raises(ZeroDivisionError):
            next(results)
