import tarfile

import pytest

from scenewright.datasets.shards.writer import _header


@pytest.mark.parametrize("size", [0, 1, 512, 93_000, 8**11 - 1, 8**11])
@pytest.mark.parametrize("name", ["a.jpg", "x" * 100, "y" * 101, "folder/" + "z" * 120 + ".json", "é.jpg", "a b~.txt"])
def test_a_header_is_the_one_that_tarfile_writes(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert _header(name, size) == info.tobuf()
