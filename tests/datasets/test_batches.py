import functools
import logging
import math
import pickle
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scenewright.datasets.batches import Batches, loader, visit_seed
from scenewright.datasets.framing import Framing
from scenewright.datasets.mixture import Mixture
from scenewright.datasets.shapes import Shapes
from scenewright.datasets.shards import Shards, ShardWriter, write_shards
from scenewright.layout import Batch, EncodedImage, Layout, RunLengths, Sample

SIZES = ((16, 16), (16, 24), (24, 16), (12, 30))


class Pictures:
    """Samples of mixed sizes, each of one colour; some cannot be read, some were dropped."""

    fingerprint = "pictures"

    def __init__(self, length: int = 50, sizes=SIZES, broken=(), dropped=()) -> None:
        self.length, self.sizes, self.broken, self.dropped = length, sizes, broken, dropped
        self.opened: set[int] = set()

    def __len__(self):
        return self.length

    def __iter__(self):
        return self.read(0, self.length)

    def read(self, start, stop):
        for i in range(start, stop):
            yield self.sample(i)

    def sample(self, i):
        if i in self.broken:
            return Sample(f"s{i}", EncodedImage(b"no picture", "jpg", "broken"))
        height, width = self.sizes[i * 7 % 5 % len(self.sizes)]
        boxes = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.2, 0.3, 0.9, 0.8]])[: i % 3]
        mask = RunLengths.encode(torch.ones(1, height, width, dtype=torch.bool))[0]
        layout = Layout(boxes, ["a", "b"][: i % 3], masks=[mask] * (i % 3), scores=torch.ones(len(boxes)))
        image = EncodedImage(functools.partial(self.open, i, height, width), "png")
        return Sample(f"s{i}", image, f"no. {i}", layout=layout, rejected="blurred" if i in self.dropped else "")

    def open(self, i, height, width):
        self.opened.add(i)
        return EncodedImage.from_image(torch.full((3, height, width), i % 256, dtype=torch.uint8)).data


DRAWN = Shapes(40, 16, 16, difficulty="easy")

FRAMING = Framing(height=8, width=8, crop="random", scale=(0.5, 1), flip=0.5)
BUCKETS = replace(FRAMING, buckets=((8, 8), (8, 12), (12, 8)))


def made(dataset=None, framing=BUCKETS, batch_size=4, **options) -> Batches:
    return Batches(
        Pictures() if dataset is None else dataset, framing, batch_size, **{"block": 4, "window": 3, **options}
    )


def told(batch: Batch) -> list:
    """All that is in a batch, as what can be compared."""
    layouts = [
        (x.boxes.tolist(), x.labels, x.captions, x.masks, None if x.scores is None else x.scores.tolist())
        for x in batch.layouts
    ]
    return [batch.images.tolist(), batch.captions, batch.keys, batch.frames, batch.seeds, layouts]


def first(batches, count) -> list[list]:
    return [told(batch) for batch in islice(iter(batches), count)]


def test_a_dataset_without_samples_is_refused():
    for epochs in (None, 1):
        with pytest.raises(ValueError, match=r"the dataset has 0 samples, 0 for each of 1 processes"):
            made(Pictures(0), epochs=epochs)


def test_fewer_samples_than_a_batch_are_refused_where_there_is_no_end():
    with pytest.raises(ValueError, match="50 samples, 6 for each of 8 processes, too few for a batch_size of 7"):
        made(batch_size=7, world_size=8)
    assert [len(b) for b in made(Pictures(3), FRAMING, batch_size=7, epochs=1)] == [3]


def test_batches_are_of_one_size_and_full_before_the_end():
    batches = list(islice(iter(made()), 40))
    assert {len(b) for b in batches} == {4}
    assert {tuple(b.images.shape[-2:]) for b in batches} == {(8, 8), (8, 12), (12, 8)}
    for batch in batches:
        assert all(
            f"no. {int(image.float().mean())}" == c for image, c in zip(batch.images, batch.captions, strict=True)
        )


def test_nothing_is_left_out_and_nothing_comes_twice_in_an_epoch():
    seen = Counter(key for batch in made(epochs=3) for key in batch.keys)
    assert seen == {f"s{i}": 3 for i in range(50)}


def test_what_waits_at_the_end_of_an_epoch_goes_into_the_next():
    sizes = [len(batch) for batch in made(epochs=3)]
    assert sum(size < 4 for size in sizes) <= 3 and all(size == 4 for size in sizes[:-3])


def test_a_finite_one_begins_again_after_its_end():
    batches = made(epochs=2)
    assert [told(b) for b in batches] == [told(b) for b in batches]


def test_the_processes_share_the_samples():
    keys = [key for rank in range(4) for batch in made(rank=rank, world_size=4, epochs=1) for key in batch.keys]
    assert len(set(keys)) == len(keys) == 48


def test_a_visits_seed_depends_on_seed_epoch_and_key_only():
    seeds = {(key, seed) for b in made(epochs=1) for key, seed in zip(b.keys, b.seeds, strict=True)}
    others = {(k, s) for b in made(epochs=1, batch_size=3, block=2) for k, s in zip(b.keys, b.seeds, strict=True)}
    assert seeds == others == {(f"s{i}", visit_seed(0, 0, f"s{i}")) for i in range(50)}
    table = [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, ""), (10, 0, "a"), (1, 0, "0:a")]
    assert len({visit_seed(*row) for row in table}) == len(table)
    assert all(0 <= visit_seed(*row) < 2**63 for row in table)
    assert visit_seed(3, 1, "scene-7") == 3659459583675253462  # what checkpoints of today will ask for tomorrow


def test_another_seed_is_another_order_and_other_visits():
    one, other = first(made(seed=1), 6), first(made(seed=2), 6)
    assert [b[2] for b in one] != [b[2] for b in other] and first(made(seed=1), 6) == one


@functools.cache
def whole(framing) -> list[list]:
    return first(made(framing=framing), 50)


@pytest.mark.parametrize("consumed", [0, 1, 7, 11, 12, 13, 14, 40])
@pytest.mark.parametrize("framing", [FRAMING, BUCKETS])
def test_a_resumed_one_goes_on_with_the_same_batches(consumed, framing):
    begun = made(framing=framing)
    assert first(begun, consumed) == whole(framing)[:consumed]
    resumed = made(framing=framing)
    resumed.load_state_dict(begun.state_dict())
    assert first(resumed, 10) == whole(framing)[consumed : consumed + 10]


@settings(max_examples=8, derandomize=True, phases=[Phase.generate])
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(1, 5))
def test_any_number_of_resumes_changes_nothing(steps, batch_size):
    def fresh():
        return made(Pictures(13), batch_size=batch_size, epochs=2)

    expected, seen, state = [told(b) for b in fresh()], [], fresh().state_dict()
    for step in [*steps, 1000]:
        batches = fresh()
        batches.load_state_dict(state)
        assert batches.state_dict() == state
        seen += first(batches, min(step, len(expected) - len(seen)))
        state = batches.state_dict()
    assert seen == expected


def test_every_place_to_resume_at_is_good_to_the_very_end():
    expected = [told(b) for b in made(Pictures(13), epochs=2)]
    assert [len(b[2]) for b in expected].count(4) < len(expected)  # the last ones are smaller
    for consumed in range(len(expected)):
        begun, resumed = made(Pictures(13), epochs=2), made(Pictures(13), epochs=2)
        assert first(begun, consumed) == expected[:consumed]
        resumed.load_state_dict(begun.state_dict())
        assert [told(b) for b in resumed] == expected[consumed:]


def test_a_resumed_one_decodes_no_more_than_what_waits():
    begun = made(Pictures(1000), window=1)
    first(begun, 30)
    data = Pictures(1000)
    resumed = made(data, window=1)
    resumed.load_state_dict(begun.state_dict())
    first(resumed, 1)
    assert len(data.opened) < 40


def test_the_state_is_small_and_plain():
    batches = made(Pictures(1000))
    first(batches, 50)
    state = batches.state_dict()
    assert len(state["waiting"]) <= 3 * 3 and len(repr(state)) < 1500
    assert eval(repr(state), {}) == state


def test_what_cannot_be_used_is_skipped_logged_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        batches = made(Pictures(broken=(3, 17), dropped=(20,)), epochs=2)
        seen = Counter(key for batch in batches for key in batch.keys)
    assert batches.skipped == 6 and seen == {f"s{i}": 2 for i in range(50) if i not in (3, 17, 20)}
    assert caplog.messages.count("skipped sample 's3': the file is not an image") == 2
    assert "skipped sample 's20': blurred" in caplog.messages


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dataset_without_a_usable_sample_ends_with_an_error():
    with pytest.raises(ValueError, match=r"no sample of epoch 0 could be used \(50 skipped so far"):
        next(iter(made(Pictures(broken=range(50)))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, "batch_size was 4, is 5"),
        ({"framing": FRAMING}, r"framing.buckets was '\(\(8, 8\), \(8, 12\), \(12, 8\)\)', is 'None'"),
        ({"world_size": 2}, "world_size was 1, is 2"),
        ({"seed": 9}, "seed was 0, is 9"),
        ({"dataset": Shapes(50, 16, 16)}, "dataset was 'pictures', is 'shapes-1 length=50"),
        ({"world_size": 3, "rank": 1}, "rank was 0, is 1; world_size was 1, is 3"),
    ],
)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_state_of_other_batches_is_refused_with_what_differs(changes, message, loaded):
    one, other = made(), made(**changes)
    one, other = (loader(one), loader(other)) if loaded else (one, other)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size must be at least 1, got 0"), ({"epochs": 0}, "epochs must be at least 1")],
)
def test_it_says_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_a_loader_without_workers_gives_the_same_batches():
    assert first(loader(made()), 20) == first(made(), 20)


def test_workers_give_every_sample_once_with_the_same_visits():
    def visits(batches):
        return sorted(
            (k, s, str(f), i.tolist())
            for b in batches
            for k, s, f, i in zip(b.keys, b.seeds, b.frames, b.images, strict=True)
        )

    assert visits(loader(made(epochs=1), 2)) == visits(made(epochs=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_with_the_same_batches(workers):
    expected = first(loader(made(), workers), 20)
    for consumed in (0, 13):
        begun = loader(made(), workers)
        iterator = iter(begun)
        assert [told(next(iterator)) for _ in range(consumed)] == expected[:consumed]
        state = begun.state_dict()
        resumed = loader(made(), workers)
        resumed.load_state_dict(state)
        assert first(resumed, 20 - consumed) == expected[consumed:]


def test_a_loader_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    first(loader(made(), 1), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_number_of_workers_is_refused():
    with pytest.raises(ValueError, match="workers was 0, is 2"):
        loader(made(), 2).load_state_dict(loader(made()).state_dict())
    with pytest.raises(ValueError, match="workers must be at most the 50 samples of this process's epoch, got 51"):
        loader(made(), 51)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_counts_what_its_workers_skipped(workers):
    loaded = loader(made(Pictures(broken=(3, 17)), epochs=1), workers)
    assert sum(len(b) for b in loaded) == 48 and loaded.skipped == 2


def test_an_error_in_a_worker_arrives():
    with pytest.raises(ValueError, match="no sample of epoch 0 could be used"):
        next(iter(loader(made(Pictures(broken=range(50))), 1)))


def test_what_workers_are_given_can_be_sent_to_another_program():
    """Where workers are not forked, it is."""
    made_here = loader(made(DRAWN))
    parts = (made_here.batches, made_here.collate_fn, made_here.worker_init_fn)
    there, collate, _ = pickle.loads(pickle.dumps(parts))
    assert [told(collate(batch).unpack()) for batch in islice(there, 2)] == first(made(DRAWN), 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_of_shapes_and_shards_resumes_exactly_and_keeps_its_weights(tmp_path, workers):
    easy = {"difficulty": "easy", "objects": [0, 1]}
    with ShardWriter(tmp_path) as writer:
        write_shards(Shapes(length=30, height=24, width=32, **easy), writer, iter, samples_per_shard=16)
    parts = {"drawn": Shapes(length=100, height=16, width=16, **easy), "read": Shards(tmp_path)}

    def fresh():
        return loader(made(Mixture(parts, {"drawn": 3, "read": 1}), batch_size=5), workers)

    expected = first(fresh(), 22)
    names = Counter(key.split("-")[0] for batch in expected for key in batch[2])
    assert names["read"] / sum(names.values()) == pytest.approx(0.25, abs=0.05)
    begun = fresh()
    assert first(begun, 9) == expected[:9]
    resumed = fresh()
    resumed.load_state_dict(begun.state_dict())
    assert first(resumed, 13) == expected[9:]


class Pointed(Pictures):
    """Regions with a point and a scribble, but for each second one."""

    def sample(self, i):
        sample = super().sample(i)
        n = len(sample.layout)
        points = torch.tensor([[0.2, 0.3], [math.nan, math.nan]])[:n]
        scribbles = [torch.tensor([[0.2, 0.3], [0.4, 0.5]]), torch.zeros(0, 2)][:n]
        return replace(sample, layout=replace(sample.layout, points=points, scribbles=scribbles))


@pytest.mark.parametrize("workers", [0, 1])
def test_points_and_scribbles_arrive_from_workers(workers):
    whole = Framing(height=8, width=8, crop="none")
    (batch,) = islice(iter(loader(made(Pointed(), whole, batch_size=8), workers)), 1)
    two = [x for x in batch.layouts if len(x) == 2]
    assert two and all(len(x.points) == len(x.scribbles) == len(x) for x in batch.layouts)
    for layout in two:
        assert layout.points[0].tolist() == pytest.approx([0.2, 0.3]) and layout.points[1].isnan().all()
        assert [len(x) for x in layout.scribbles] == [2, 0]


class Featured(Pictures):
    """Each second picture has a text feature."""

    def sample(self, i):
        return replace(super().sample(i), text_feature=torch.full((4,), float(i)) if i % 2 else None)


@pytest.mark.parametrize("workers", [0, 1])
def test_text_features_arrive_from_workers_with_their_pictures(workers):
    (batch,) = islice(iter(loader(made(Featured(), FRAMING, batch_size=8), workers)), 1)
    numbers = [int(key[1:]) for key in batch.keys]
    assert {i % 2 for i in numbers} == {0, 1}
    assert [x if x is None else x.tolist() for x in batch.text_features] == [
        [i] * 4 if i % 2 else None for i in numbers
    ]
