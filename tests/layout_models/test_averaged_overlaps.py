"""Overlaps by averaging: each pixel gets the mean of what its objects say alone."""

import pytest
import torch

from scenewright.layout import Layout, RunLengths
from scenewright.layout_models.rich_context.grounding import canvas, ground
from scenewright.layout_models.rich_context.regional_attention import RegionalCrossAttention
from scenewright.layout_models.tiny.averaged import AveragedCrossAttention, alone, ground_each
from scenewright.layout_models.tiny.words import WordTokenizer

GRIDS = [(8, 8)]
TABLE = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
APART = Layout(boxes=torch.tensor([[0, 0, 0.25, 0.5], [0.5, 0.5, 1, 1]]), labels=["red circle", "blue square"])
OVER = Layout(
    boxes=torch.tensor([[0, 0, 0.75, 0.75], [0.25, 0.25, 1, 1], [0.5, 0, 1, 0.5]]),
    labels=["red circle", "blue square", "green triangle"],
)


def prepared(layout):
    return canvas(layout, 32, 32, GRIDS, WordTokenizer(), cell=2)


def encode(ids):
    return TABLE[ids % 64]


def layers():
    torch.manual_seed(1)
    layer = AveragedCrossAttention(8, 16, 2)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    regional = RegionalCrossAttention(8, 16, 2)
    regional.load_state_dict(layer.state_dict())
    return layer.eval(), regional.eval()


def with_features(grounding):
    grounding.features = grounding.tokens
    return grounding


def averaged(layouts, dropped=None):
    canvases = [None if x is None else [prepared(one) for one in alone(x)] for x in layouts]
    return with_features(ground_each(canvases, encode, GRIDS, dropped=dropped or [x is None for x in layouts]))


def regional(layouts):
    return with_features(ground([None if x is None else prepared(x) for x in layouts], encode, GRIDS))


@torch.no_grad()
def test_where_boxes_do_not_overlap_it_is_the_regional_layer():
    layer, plain = layers()
    x = torch.randn(1, 64, 8)
    assert torch.allclose(layer(x, averaged([APART])), plain(x, regional([APART])), atol=1e-6)
    assert not torch.allclose(layer(x, averaged([OVER])), plain(x, regional([OVER])), atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("layouts", [[OVER], [None, OVER], [APART, None, OVER]], ids=len)
def test_each_pixel_gets_the_mean_of_its_objects(layouts):
    layer, plain = layers()
    x = torch.randn(len(layouts), 64, 8)
    found = layer(x, averaged(layouts))
    middle = (torch.arange(8) + 0.5) / 8
    for i, layout in enumerate(layouts):
        if layout is None:
            assert torch.equal(found[i], x[i] + layer.null_text_feat)
            continue
        said = torch.stack([plain(x[i : i + 1], regional([one]))[0] - x[i] for one in alone(layout)])  # (n, l, d)
        boxes = layout.boxes[:, None]
        across = (boxes[..., 0] < middle) & (middle < boxes[..., 2])
        down = (boxes[..., 1] < middle) & (middle < boxes[..., 3])
        covers = (down[:, :, None] & across[:, None, :]).flatten(1)  # (n, l)
        covers = covers | ~covers.any(0)
        wanted = (said * covers[..., None]).sum(0) / covers.sum(0)[:, None]
        assert torch.allclose(found[i] - x[i], wanted, atol=1e-5)


@torch.no_grad()
def test_without_any_layout_it_is_the_regional_layer():
    layer, plain = layers()
    x = torch.randn(2, 64, 8)
    found = layer(x, averaged([None, None], dropped=[True, False]))
    assert torch.equal(found[0], x[0] + plain.null_text_feat) and torch.equal(found[1], x[1])


def test_an_object_alone_keeps_all_that_is_known_of_it():
    points = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    masks = RunLengths.encode(torch.stack([torch.ones(4, 4), torch.eye(4)]).bool())
    layout = Layout(
        torch.rand(2, 4), ["a", "b"], ["an a", "a b"], torch.rand(2), masks, points, list(torch.rand(2, 3, 2))
    )
    one = alone(layout)[1]
    assert (one.labels, one.captions, one.masks) == (["b"], ["a b"], masks[1:])
    assert torch.equal(one.scores, layout.scores[1:]) and torch.equal(one.points, points[1:])
    assert torch.equal(one.scribbles[0], layout.scribbles[1])
