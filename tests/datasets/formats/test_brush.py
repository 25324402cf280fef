"""Label Studio's run lengths."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scenewright.datasets.formats import brush
from scenewright.layout import RunLengths

#: From the tests of Label Studio's converter.
KNOWN = (
    [1, 1, 1, 1, 2, 3, 5, 6, 7, 8, 4, 4, 4, 4, 4, 4, 4, 4],
    [0, 0, 0, 18, 57, 27, 252, 96, 32, 1, 0, 6, 0, 40, 0, 192, 3, 128, 17, 56, 32],
)
MASKS = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(lambda size: arrays(bool, size))


def test_a_known_stream_is_written_and_read():
    values, rle = KNOWN
    assert brush.pack(np.array(values, np.uint8)) == rle
    assert brush.unpack(rle).tolist() == values


@settings(max_examples=200)
@given(
    st.one_of(
        arrays(np.uint8, st.integers(0, 300)),
        st.binary(max_size=4).map(lambda x: np.repeat(np.frombuffer(x, np.uint8), 700)),
    )
)
def test_any_bytes_come_back(values):
    assert brush.unpack(brush.pack(values)).tolist() == values.tolist()


@settings(max_examples=100)
@given(MASKS)
def test_any_mask_comes_back(mask):
    lengths = RunLengths.encode(torch.from_numpy(mask)[None])[0]
    assert brush.decode(brush.encode(lengths), *mask.shape) == lengths


@pytest.mark.parametrize("size", [(1, 65536), (300, 400), (131, 1000)])
def test_runs_longer_than_a_length_field_are_split(size):
    for value in (False, True):
        (lengths,) = RunLengths.encode(torch.full((1, *size), value))
        assert brush.decode(brush.encode(lengths), *size) == lengths


def test_listed_values_are_read_as_front_ends_write_them():
    # 4 values, 8 bits each, widths 3 4 8 16; one list of four: flag 0, width 0, length 4 - 1
    bits = f"{4:032b}{7:05b}" + "".join(f"{x - 1:04b}" for x in (3, 4, 8, 16)) + "0" + "00" + "011"
    bits += "".join(f"{x:08b}" for x in (9, 8, 7, 255))
    bits += "0" * (-len(bits) % 8)
    rle = list(int(bits, 2).to_bytes(len(bits) // 8))
    assert brush.unpack(rle).tolist() == [9, 8, 7, 255]
    assert brush.decode(rle, 1, 1).area == 1


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ([], "at least 7 bytes"),
        (KNOWN[1][:12], "break off"),
        ([0, 0, 0, 9, 57 | 128, 27, 252], "8 bits"),
        (KNOWN[1], "has 3 x 2 = 6"),
    ],
)
def test_what_is_broken_is_refused(rle, message):
    with pytest.raises(ValueError, match=message):
        brush.decode(rle, 2, 3)
