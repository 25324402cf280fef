"""What a model is asked to draw: text features reach those that read them, and no others."""

import torch

from scenewright.layout import Layout
from scenewright.layout_models.drawing import draw
from scenewright.layout_models.tiny_rat_dit import TinyRatDiT

SIZE = {"height": 32, "width": 32}


class CaptionsOnly:
    """Remembers what it was asked."""

    def sample(self, captions, layouts, seeds, *, height, width):
        self.asked = list(captions)
        return torch.zeros(len(captions), 3, height, width, dtype=torch.uint8)


def asked(model, captions, features):
    return draw(model, captions, [Layout.empty()] * len(captions), list(range(len(captions))), features, **SIZE)


def test_a_feature_takes_the_place_of_the_caption_where_the_model_reads_it():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyRatDiT(depth=4, hidden_size=32, num_inference_steps=2, zero_gates=False)
        torch.nn.init.normal_(model.network.final_layer.linear.weight, std=0.1)
    feature = torch.randn(512, generator=torch.Generator().manual_seed(0))
    red, blue = asked(model, ["red", "red"], [None, feature])
    assert torch.equal(red, asked(model, ["red", "red"], [])[0])
    assert torch.equal(blue, asked(model, ["red", ""], [None, feature])[1])
    assert not torch.equal(blue, asked(model, ["red", "red"], [None, None])[1])


def test_a_model_without_them_draws_the_captions():
    model = CaptionsOnly()
    assert asked(model, ["red"], [torch.ones(4)]).shape == (1, 3, 32, 32) and model.asked == ["red"]
