"""The tiny InstanceDiffusion: which kinds of locations it reads, and what it draws at random."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch, Layout, RunLengths
from scenewright.layout_models.instance_diffusion.attach import adapter_parameters
from scenewright.layout_models.objective import draw
from scenewright.layout_models.tiny_instance_diffusion import TinyInstanceDiffusion, locations

BOXES = torch.tensor([[0.1, 0.1, 0.6, 0.6], [0.3, 0.3, 0.9, 0.9]])
PLAIN = Layout(boxes=BOXES, labels=["red circle", "blue ring"])


def mask(top: int, left: int, bottom: int, right: int, size: int = 32) -> torch.Tensor:
    plane = torch.zeros(size, size, dtype=torch.bool)
    plane[top:bottom, left:right] = True
    return plane


def with_masks(*planes: torch.Tensor) -> Layout:
    return replace(PLAIN, masks=RunLengths.encode(torch.stack(planes)))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = TinyInstanceDiffusion(base="twin", num_inference_steps=2, alpha=(1.0, 0.0, 0.0))
        for name, parameter in adapter_parameters(model.unet).items():
            if ".alpha_" in name or "layer_scale" in name:
                parameter.data.fill_(1.0)
            else:
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def image(model, layout: Layout) -> torch.Tensor:
    return model.sample(["a red circle"], [layout], [0], height=32, width=32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (PLAIN, replace(PLAIN, points=torch.tensor([[0.2, 0.2], [0.8, 0.8]]))),
        (PLAIN, replace(PLAIN, scribbles=[torch.tensor([[0.2, 0.2], [0.3, 0.5]]), torch.zeros(0, 2)])),
        (PLAIN, with_masks(mask(4, 4, 18, 18), mask(10, 10, 28, 28))),
        (with_masks(mask(4, 4, 18, 18), mask(10, 10, 28, 28)), with_masks(mask(4, 4, 18, 18), mask(14, 10, 24, 28))),
    ],
    ids=["points", "scribbles", "masks", "outlines"],
)
def test_all_kinds_of_locations_are_seen(model, one, other):
    assert not torch.equal(image(model, one), image(model, other))


def test_what_is_not_there_is_as_if_it_was_not_asked_for(model):
    none = replace(
        with_masks(mask(0, 0, 0, 0), mask(0, 0, 0, 0)),
        points=torch.full((2, 2), torch.nan),
        scribbles=[torch.zeros(0, 2)] * 2,
    )
    assert torch.equal(image(model, PLAIN), image(model, none))


def test_masks_may_have_any_size(model):
    small = with_masks(mask(4, 4, 18, 18), mask(10, 10, 28, 28))
    large = with_masks(mask(8, 8, 36, 36, size=64), mask(20, 20, 56, 56, size=64))
    assert torch.equal(image(model, small), image(model, large))


def test_scribbles_are_those_of_the_layout_or_else_lie_in_the_masks():
    layout = replace(
        with_masks(mask(4, 4, 18, 18), mask(10, 10, 28, 28)),
        scribbles=[torch.zeros(0, 2), torch.tensor([[0.5, 0.5]])],
    )
    found = locations(layout, 0, 32, 32)
    own = (found.scribbles[0].view(20, 2) * 32).round().int()
    assert all(mask(4, 4, 18, 18)[y, x] for x, y in own.tolist())
    assert torch.equal(found.scribbles[1].view(20, 2), torch.full((20, 2), 0.5))
    assert (found.polygons != 0).any(1).all() and found.masks.sum((1, 2)).tolist() == [14 * 14, 18 * 18]


def test_points_are_in_the_middle_of_boxes_unless_given():
    points = torch.tensor([[0.2, 0.3], [torch.nan, torch.nan]])
    found = locations(replace(PLAIN, points=points), 0, 32, 32)
    assert torch.allclose(found.points, torch.tensor([[0.2, 0.3], [0.6, 0.6]]))
    assert not found.scribbles.any() and not found.polygons.any() and not found.masks.any()


def test_what_is_drawn_in_masks_hangs_on_the_seed():
    layout = with_masks(mask(4, 4, 18, 18), mask(10, 10, 28, 28))
    one, again, other = (locations(layout, seed, 32, 32) for seed in (3, 3, 4))
    assert torch.equal(one.scribbles, again.scribbles) and torch.equal(one.polygons, again.polygons)
    assert not torch.equal(one.scribbles, other.scribbles)


def test_each_image_drops_kinds_of_its_own_which_tell_nothing_of_what_else_it_drops():
    model = TinyInstanceDiffusion(type_drop=0.5)
    seeds = list(range(400))
    kept = model._tell([PLAIN] * 400, [False] * 400, seeds, 32, 32).grounding.kept
    assert torch.equal(kept[7:8], model._tell([PLAIN], [False], [7], 32, 32).grounding.kept)
    assert kept.any(1).all() and 0.1 < kept[:, 3].float().mean() < 0.6
    draws = draw(seeds, (1, 1, 1), 1000, layout_drop=0.5)
    dropped = np.array([draws.layout_dropped, draws.caption_dropped, np.array(draws.label_only) < 0.5])
    correlation = np.corrcoef(np.concatenate([dropped, kept.T.numpy()]).astype(float))[:3, 3:]
    assert np.abs(correlation).max() < 0.2


def test_dropped_kinds_are_not_seen(model):
    batch = Batch.collate(list(Shapes(length=8, height=32, width=32, difficulty="middle")), seeds=list(range(8)))
    losses = []
    for share in (0.0, 1.0):
        model.types = replace(model.types, each=share)
        losses.append(model(batch).item())
    model.types = replace(model.types, each=0.1)
    assert losses[0] != losses[1]


def test_an_object_without_a_mask_attends_where_its_box_is(model):
    layout = with_masks(mask(4, 4, 12, 12), mask(0, 0, 0, 0))
    cells = model._covered(layout, [(8, 8)])[64].view(2, 8, 8)
    assert cells[0].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert torch.equal(cells[1], model._covered(PLAIN, [(8, 8)])[64].view(2, 8, 8)[1]) and cells[1].any()
