from collections import Counter

import pytest

from scenewright.datasets.mixture import Mixture
from scenewright.layout import Sample


class Letters:
    """Thirty samples without images."""

    fingerprint = ""

    def __len__(self):
        return 30

    def __iter__(self):
        return self.read(0, 30)

    def read(self, start, stop):
        return (Sample(str(i)) for i in range(start, stop))


PARTS = {"a": Letters(), "b": Letters()}


def drawn(mixture) -> Counter:
    return Counter(s.key.split("-")[0] for s in mixture)


def test_keys_carry_their_datasets_name_and_are_unique():
    keys = [s.key for s in Mixture(PARTS)]
    assert len(set(keys)) == len(keys) == len(Mixture(PARTS)) and {k[:2] for k in keys} == {"a-", "b-"}


def test_weights_are_proportions():
    mixture = Mixture(PARTS, {"a": 3, "b": 1})
    counts = drawn(mixture)
    assert counts["a"] == 30 and 9 <= counts["b"] <= 11


def test_a_weight_of_zero_leaves_a_dataset_out():
    assert drawn(Mixture(PARTS, {"a": 1, "b": 0})) == {"a": 30}


def test_until_all_draws_every_sample_once():
    mixture = Mixture(PARTS, {"a": 3, "b": 1}, until="all")
    assert drawn(mixture) == {"a": 30, "b": 30} and len({s.key for s in mixture}) == 60


def test_each_datasets_own_order_is_kept():
    keys = [s.key for s in Mixture(PARTS) if s.key.startswith("a-")]
    assert keys == [f"a-{s.key}" for s in PARTS["a"].read(0, len(keys))]


def test_the_order_is_a_function_of_the_seed():
    def order(seed):
        return [s.key[0] for s in Mixture(PARTS, seed=seed)]

    assert order(0) == order(0) != order(1)


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 9), (5, 21), (20, 30)])
def test_reading_from_the_middle_gives_what_iterating_gives(start, stop):
    mixture = Mixture(PARTS)
    assert [s.key for s in mixture.read(start, stop)] == [s.key for s in mixture][start:stop]


@pytest.mark.parametrize(
    ("parts", "weights", "message"),
    [
        ({}, None, "needs at least one dataset"),
        (PARTS, {"a": 1.0}, r"weights must name the datasets \['a', 'b'\], got \['a'\]"),
        (PARTS, {"a": -1.0, "b": 1.0}, "weights must not be negative"),
        (PARTS, {"a": 0.0, "b": 0.0}, "not all zero"),
    ],
)
def test_it_says_what_is_wrong(parts, weights, message):
    with pytest.raises(ValueError, match=message):
        Mixture(parts, weights)


def test_it_composes_from_the_command_line(config, tmp_path, picture):
    from hydra.utils import instantiate

    (tmp_path / "x.jpg").write_bytes(picture())
    cfg = config(
        "annotate",
        "dataset=mixture",
        "+dataset@dataset.datasets.mine=image_folder",
        f"dataset.datasets.mine.directory={tmp_path}",
        "+dataset@dataset.datasets.drawn=shapes",
        "output_dir=x",
    )
    assert set(instantiate(cfg.dataset, _convert_="all").datasets) == {"mine", "drawn"}
