from collections import Counter
from itertools import islice

import pytest
from torch.utils.data import DataLoader

from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards, ShardWriter, write_shards
from scenewright.datasets.stream import Stream
from scenewright.layout import Sample


class Numbers:
    """Samples whose keys are their places."""

    fingerprint = ""

    def __init__(self, length: int) -> None:
        self.length = length
        self.reads: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        return self.read(0, self.length)

    def read(self, start, stop):
        self.reads.append((start, stop))
        for i in range(start, stop):
            yield Sample(str(i))


def keys(samples) -> list[int]:
    return [int(s.key) for s in samples]


def stream(length=103, **options) -> Stream:
    return Stream(Numbers(length), **{"block": 8, "window": 3, **options})


@pytest.mark.parametrize("length", [0, 1, 7, 103])
def test_an_epoch_has_every_sample_once(length):
    assert sorted(keys(stream(length))) == list(range(length))


def test_it_shuffles_within_and_across_blocks_and_anew_in_every_epoch():
    one = stream()
    first, second = keys(one), keys(one)
    assert first != second and sorted(first) == sorted(second) and first != sorted(first)
    assert sum(abs(a - b) == 1 for a, b in zip(first, first[1:], strict=False)) < 20


def test_the_order_is_a_function_of_the_seed():
    assert keys(stream(seed=1)) == keys(stream(seed=1)) != keys(stream(seed=2))


def test_without_shuffling_the_order_is_the_datasets():
    assert keys(stream(shuffle=False)) == list(range(103))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("shuffle", [True, False])
def test_dropping_gives_every_process_equally_many_and_no_sample_twice(world_size, shuffle):
    shares = [keys(stream(rank=r, world_size=world_size, shuffle=shuffle)) for r in range(world_size)]
    assert {len(s) for s in shares} == {103 // world_size}
    assert max(Counter(k for s in shares for k in s).values()) == 1


@pytest.mark.parametrize(("length", "world_size"), [(103, 2), (103, 8), (3, 5), (1, 4)])
def test_repeating_gives_every_process_equally_many_and_every_sample_at_least_once(length, world_size):
    shares = [keys(stream(length, rank=r, world_size=world_size, remainder="repeat")) for r in range(world_size)]
    assert {len(s) for s in shares} == {-(-length // world_size)}
    assert {k for s in shares for k in s} == set(range(length))


def test_keeping_gives_every_sample_exactly_once():
    shares = [keys(stream(rank=r, world_size=4, remainder="keep")) for r in range(4)]
    assert sorted(k for s in shares for k in s) == list(range(103))


@pytest.mark.parametrize("consumed", [0, 1, 23, 24, 25, 102, 103])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_resumed_stream_goes_on_where_the_other_was(consumed, shuffle):
    whole = stream(seed=3, shuffle=shuffle)
    expected = keys(whole) + keys(whole)
    first = stream(seed=3, shuffle=shuffle)
    begun = keys(islice(iter(first), consumed))
    second = stream(seed=3, shuffle=shuffle)
    second.load_state_dict(first.state_dict())
    assert begun + keys(second) + keys(second) == expected


def test_a_resumed_stream_does_not_read_what_came_before():
    first = stream(seed=3)
    list(islice(iter(first), 75))
    second = stream(seed=3)
    second.load_state_dict(first.state_dict())
    next(iter(second))
    assert sum(stop - start for start, stop in second.dataset.reads) <= 24


def test_a_state_of_another_order_is_refused_with_what_differs():
    state = stream(world_size=2).state_dict()
    with pytest.raises(ValueError, match="world_size was 2, is 4"):
        stream(world_size=4).load_state_dict(state)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loaders_workers_share_the_samples(workers):
    loader = DataLoader(stream(), batch_size=None, num_workers=workers)
    assert sorted(keys(loader)) == list(range(103))


def test_processes_with_workers_get_equally_many_batches():
    def batches(rank):
        loader = DataLoader(stream(rank=rank, world_size=3), batch_size=4, num_workers=2, collate_fn=list)
        return sum(1 for _ in loader)

    assert len({batches(rank) for rank in range(3)}) == 1


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata 0.11 with torch 2.15
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_in_the_middle_of_an_epoch(workers):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        return torchdata.StatefulDataLoader(stream(seed=5), batch_size=4, num_workers=workers, collate_fn=keys)

    expected = [k for batch in loader() for k in batch]
    first = loader()
    begun = [k for batch in islice(iter(first), 9) for k in batch]
    state = first.state_dict()
    second = loader()
    second.load_state_dict(state)
    assert begun + [k for batch in second for k in batch] == expected


def test_a_set_epoch_begins_it():
    one, other = stream(), stream()
    list(one)
    other.set_epoch(1)
    assert keys(one) == keys(other)


def test_shards_stream_with_their_images(tmp_path):
    with ShardWriter(tmp_path) as writer:
        write_shards(Shapes(length=20, height=32, width=32, difficulty="easy"), writer, iter, samples_per_shard=6)
    out = list(Stream(Shards(tmp_path), block=4, window=2, seed=1))
    assert sorted(s.key for s in out) == [s.key for s in Shards(tmp_path)] and out[0].image.shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "world_size": 2}, r"rank must be in \[0, 2\), got 2"),
        ({"remainder": "lose"}, "remainder must be"),
        ({"block": 0}, "block and window must be at least 1"),
    ],
)
def test_it_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        stream(**options)
