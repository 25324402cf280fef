"""What is held out, and what is left."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewright.datasets.held_out import Spans, hold_out
from scenewright.layout import Sample


class Numbers:
    """Samples whose keys are their places."""

    def __init__(self, length: int) -> None:
        self.length, self.fingerprint = length, f"numbers {length}"

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        return self.read(0, self.length)

    def read(self, start: int, stop: int):
        assert 0 <= start <= stop <= self.length
        return (Sample(key=str(i)) for i in range(start, stop))


def keys(samples) -> list[int]:
    return [int(x.key) for x in samples]


@settings(max_examples=40)
@given(st.integers(1, 60), st.data())
def test_both_parts_together_are_the_dataset_and_share_nothing(length, data):
    count = data.draw(st.integers(0, length - 1))
    training, held = hold_out(Numbers(length), count)
    assert len(held) == count and len(training) == length - count
    assert sorted(keys(training) + keys(held)) == list(range(length))
    assert keys(training) == sorted(keys(training)) and keys(held) == sorted(keys(held))


@settings(max_examples=40)
@given(st.integers(1, 40), st.data())
def test_reading_from_anywhere_gives_what_iterating_gives(length, data):
    for part in hold_out(Numbers(length), data.draw(st.integers(0, length - 1))):
        start = data.draw(st.integers(0, len(part)))
        stop = data.draw(st.integers(start, len(part)))
        assert keys(part.read(start, stop)) == keys(part)[start:stop]


def test_what_is_held_out_lies_evenly_over_the_dataset():
    assert keys(hold_out(Numbers(100), 4)[1]) == [12, 37, 62, 87]


def test_another_number_held_out_is_another_dataset():
    prints = {part.fingerprint for count in (0, 1, 2) for part in hold_out(Numbers(9), count)}
    assert len(prints) == 6


@pytest.mark.parametrize(("length", "count"), [(0, 1), (3, 3), (3, 4), (3, -1)])
def test_no_dataset_can_be_held_out_whole(length, count):
    with pytest.raises(ValueError, match=rf"must be in \[0, {length}\), the dataset's length, got {count}"):
        hold_out(Numbers(length), count)


def test_no_spans_are_an_empty_dataset():
    assert list(Spans(Numbers(3), [])) == [] and len(Spans(Numbers(3), [])) == 0
