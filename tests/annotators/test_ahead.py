import threading
import time

import pytest

from scenewright.annotators.ahead import ahead


def test_nothing_gives_nothing():
    assert list(ahead(str, [], workers=2, depth=3)) == []


def test_results_keep_the_order_of_the_items():
    def slow_when_even(x):
        time.sleep(0.01 * (x % 2 == 0))
        return -x

    assert list(ahead(slow_when_even, range(20), workers=4, depth=8)) == [-x for x in range(20)]


def test_it_never_draws_more_than_depth_items_before_they_are_asked_for():
    drawn = []
    results = ahead(str, (drawn.append(x) or x for x in range(1000)), workers=2, depth=5)
    next(results)
    time.sleep(0.05)
    assert len(drawn) <= 7  # five ahead, one handed out, one waiting at the door
    results.close()


@pytest.mark.parametrize("where", ["function", "source"])
def test_what_goes_wrong_is_raised_at_its_place(where):
    def items():
        yield from range(3)
        if where == "source":
            raise KeyError("gone")
        yield 3

    def function(x):
        if where == "function" and x == 3:
            raise KeyError("gone")
        return x

    results = ahead(function, items(), workers=2, depth=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError):
        next(results)


def test_closing_leaves_no_thread_behind():
    before = threading.active_count()
    results = ahead(str, iter(range(10**9)), workers=3, depth=4)
    next(results)
    results.close()
    assert threading.active_count() == before
