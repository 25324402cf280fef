import torch

from scenewright.annotators.filters.count import Count
from scenewright.layout import Layout, Sample


def test_an_image_with_too_many_regions_goes_where_that_is_wanted():
    sample = Sample("k", layout=Layout(torch.rand(3, 4), ["a", "b", "c"]))
    (verdict,) = Count(minimum=None, maximum=2, whole=True).judge([sample])
    assert "count 3 is above 2" in verdict.image
