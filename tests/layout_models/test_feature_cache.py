"""Features are computed once, survive processes and crashes, and are never those of other weights."""

import multiprocessing

import pytest
import torch
from torch import nn

from scenewright.layout_models.feature_cache import FeatureCache, key, weights_digest


def entry(seed: int, size: int = 4) -> dict[str, torch.Tensor]:
    return {"x": torch.full((size,), float(seed)), "half": torch.ones(2, dtype=torch.bfloat16) * seed}


class Maker:
    """Makes entry ``n`` for key number ``n``, and notes what it was asked for."""

    def __init__(self, numbers):
        self.numbers, self.asked = numbers, []

    def __call__(self, places):
        self.asked.append([self.numbers[i] for i in places])
        return [entry(self.numbers[i]) for i in places]


def fetch(cache, *numbers):
    make = Maker(numbers)
    found = cache.fetch([key("n", str(n)) for n in numbers], make)
    assert [float(x["x"][0]) for x in found] == list(numbers)
    return make.asked


def test_nothing_asked_is_nothing_made(tmp_path):
    assert fetch(FeatureCache(tmp_path / "deep" / "down")) == []


def test_each_key_is_made_once_whatever_the_batch(tmp_path):
    cache = FeatureCache(tmp_path)
    assert fetch(cache, 3, 1, 3) == [[3, 1]]
    assert fetch(cache, 1, 2, 3, 2) == [[2]]
    assert (cache.usage.made, cache.usage.remembered) == (3, 2)
    assert cache.files() == (3, cache.usage.bytes_written)


def test_another_process_reads_what_one_has_written_bit_for_bit(tmp_path):
    fetch(FeatureCache(tmp_path), 5)
    cache = FeatureCache(tmp_path)
    assert fetch(cache, 5) == [] and cache.usage.read == 1
    (found,) = cache.fetch([key("n", "5")], lambda _: [])
    assert found.keys() == entry(5).keys()
    assert all(torch.equal(found[name], x) and found[name].dtype == x.dtype for name, x in entry(5).items())


def test_memory_is_bounded_and_what_was_used_last_stays(tmp_path):
    cache = FeatureCache(tmp_path, memory=45)  # two entries of 20 bytes
    fetch(cache, 1, 2)
    fetch(cache, 1)
    fetch(cache, 3)
    assert cache.usage.bytes_in_memory == 40
    read = cache.usage.read
    assert fetch(cache, 1, 3) == [] and cache.usage.read == read
    assert fetch(cache, 2) == [] and cache.usage.read == read + 1


def test_an_entry_larger_than_the_memory_is_kept_on_disk_alone(tmp_path):
    cache = FeatureCache(tmp_path, memory=10)
    fetch(cache, 1)
    assert cache.usage.bytes_in_memory == 0 and fetch(cache, 1) == []


@pytest.mark.parametrize("content", [b"", b"\x08", b"rubbish" * 9, None], ids=["empty", "cut", "rubbish", "half"])
def test_a_broken_file_is_made_anew_with_a_warning(content, tmp_path, caplog):
    fetch(FeatureCache(tmp_path), 7)
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-3] if content is None else content)
    assert fetch(FeatureCache(tmp_path), 7) == [[7]]
    assert "is broken and is made anew" in caplog.text
    assert fetch(FeatureCache(tmp_path), 7) == []


def test_half_written_files_are_not_seen(tmp_path):
    cache = FeatureCache(tmp_path)
    fetch(cache, 1)
    (file,) = tmp_path.glob("*/*.safetensors")
    file.with_name(".partial").write_bytes(b"half")
    assert cache.files()[0] == 1


def fill(folder, done):
    cache = FeatureCache(folder)
    for start in range(0, 40, 4):
        fetch(cache, *range(start, start + 4))
    done.put(cache.usage.made)


def test_several_processes_fill_one_folder(tmp_path):
    context = multiprocessing.get_context("fork")
    done = context.SimpleQueue()
    processes = [context.Process(target=fill, args=(tmp_path, done)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [x.exitcode for x in processes] == [0, 0, 0]
    cache = FeatureCache(tmp_path)
    assert fetch(cache, *range(40)) == [] and cache.files()[0] == 40
    assert not list(tmp_path.glob("*/.*"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), (b"a",)),
        ((torch.zeros(2, 3),), (torch.zeros(3, 2),)),
        ((torch.zeros(2),), (torch.zeros(2, dtype=torch.int32),)),
        ((torch.tensor([0.0]),), (torch.tensor([-0.0]),)),
        ((), ("",)),
    ],
)
def test_what_differs_has_another_key(one, other):
    assert key(*one) == key(*one) != key(*other)


def test_any_change_of_a_network_changes_its_digest():
    class Network(nn.Module):
        def __init__(self, **config):
            super().__init__()
            self.config = config
            self.line = nn.Linear(3, 2)
            self.register_buffer("scale", torch.ones(1))

    torch.manual_seed(0)
    network = Network(act="relu", _name_or_path="here")
    before = weights_digest(network)
    network.config["_name_or_path"] = "there"
    assert weights_digest(network) == before
    digests = {before}
    network.config["act"] = "gelu"
    digests.add(weights_digest(network))
    with torch.no_grad():
        network.line.weight[1, 2] = network.line.weight[1, 2].nextafter(torch.tensor(9.0))
    digests.add(weights_digest(network))
    network.scale.zero_()
    digests.add(weights_digest(network))
    digests.add(weights_digest(network.bfloat16()))
    assert len(digests) == 5


def test_weights_that_are_not_here_have_no_digest():
    with pytest.raises(ValueError, match="weight of Linear is not whole.*without a cache"):
        weights_digest(nn.Linear(2, 2, bias=False, device="meta"))
