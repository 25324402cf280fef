from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from scenewright.annotators.segmenters.grabcut import GrabCut
from scenewright.layout import Layout, RunLengths
from scenewright.protocols import MattingSegmenter

SIDE = 120


def disc(radius: float, x: float = 0.5, y: float = 0.5, side: int = SIDE) -> np.ndarray:
    rows, columns = np.indices((side, side))
    return np.hypot(columns - side * x, rows - side * y) < side * radius


def picture(*painted: tuple[np.ndarray, tuple[int, int, int]], grain: float = 4.0) -> torch.Tensor:
    """Regions painted on a greenish ground with a little grain."""
    pixels = np.full((*painted[0][0].shape, 3), (170, 190, 160), np.float64)
    for mask, colour in painted:
        pixels[mask] = colour
    pixels += np.random.default_rng(0).normal(scale=grain, size=pixels.shape)
    return torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8)).permute(2, 0, 1)


def layout_of(*masks: np.ndarray, seeds: bool = False) -> Layout:
    runs = RunLengths.encode(torch.from_numpy(np.stack(masks)))
    return Layout(torch.stack([m.box for m in runs]), ["thing"] * len(masks), masks=runs if seeds else None)


def overlap(run: RunLengths, mask: np.ndarray) -> float:
    found = run.decode().numpy()
    return float((found & mask).sum() / (found | mask).sum())


RED, BLUE = (200, 40, 40), (40, 60, 190)
SHAPES = {
    "disc": disc(0.3),
    "ring": disc(0.35) & ~disc(0.2),
    "bar": np.pad(np.ones((14, 80), bool), ((53, 53), (20, 20))),
    "at the border": disc(0.3, x=0.0, y=1.0),
    "small": disc(0.07),
}


def test_it_stands_behind_the_door():
    assert isinstance(GrabCut(), MattingSegmenter)


def test_nothing_gets_no_mask():
    assert GrabCut().segment([], []) == []
    assert GrabCut().segment([picture((SHAPES["disc"], RED))], [Layout.empty()]) == [[]]


@pytest.mark.parametrize("name", SHAPES)
def test_a_box_is_cut_out_by_colour(name):
    mask = SHAPES[name]
    ((run,),) = GrabCut().segment([picture((mask, RED))], [layout_of(mask)])
    assert overlap(run, mask) > 0.9


def test_a_box_that_is_off_by_a_tenth_still_finds_its_disc():
    mask, layout = SHAPES["disc"], layout_of(SHAPES["disc"])
    for shift in (0.05, -0.05):
        moved = replace(layout, boxes=layout.boxes + shift * torch.tensor([1.0, -1.0, 1.0, -1.0]))
        ((run,),) = GrabCut().segment([picture((mask, RED))], [moved])
        assert overlap(run, mask) > 0.9


def test_a_rough_mask_is_made_exact_and_says_which_of_two_is_meant():
    left, right = disc(0.22, x=0.35), disc(0.22, x=0.65)
    left &= ~right
    image = picture((left, RED), (right, BLUE))
    kernel = np.ones((9, 9), np.uint8)
    rough = [cv2.erode(m.astype(np.uint8), kernel).astype(bool) for m in (left, right)]
    layout = replace(layout_of(*rough, seeds=True), boxes=layout_of(left, right).boxes)
    (runs,) = GrabCut().segment([image], [layout])
    for run, mask, start in zip(runs, (left, right), rough, strict=True):
        assert overlap(run, mask) > max(0.9, (start & mask).sum() / mask.sum())


def test_the_hole_of_a_ring_stays_a_hole():
    ((run,),) = GrabCut().segment([picture((SHAPES["ring"], BLUE))], [layout_of(SHAPES["ring"])])
    assert not run.decode()[SIDE // 2, SIDE // 2]


def test_a_mask_does_not_reach_far_beyond_its_box():
    wide = np.zeros((SIDE, SIDE), bool)
    wide[50:70] = True
    box = torch.tensor([[0.4, 0.4, 0.6, 0.6]])
    ((run,),) = GrabCut(slack=0.1).segment([picture((wide, RED))], [Layout(box, ["thing"])])
    x0, y0, x1, y1 = (run.box * SIDE).tolist()
    assert x0 >= 44 and x1 <= 76 and y0 >= 44 and y1 <= 76


def test_what_cannot_be_cut_keeps_its_own_mask_or_else_its_box():
    flat = picture((SHAPES["disc"], (170, 190, 160)), grain=0.0)
    box = torch.tensor([[0.25, 0.25, 0.75, 0.5]])
    ((run,),) = GrabCut().segment([flat], [Layout(box, ["thing"])])
    assert (run.area, run.box.tolist()) == (60 * 30, pytest.approx(box[0].tolist()))
    seeded = layout_of(SHAPES["ring"], seeds=True)
    assert GrabCut().segment([flat], [seeded]) == [seeded.masks]


def test_a_large_region_is_cut_small_and_comes_back_at_full_size():
    mask = cv2.resize(SHAPES["disc"].astype(np.uint8), (700, 500), interpolation=cv2.INTER_NEAREST).astype(bool)
    ((run,),) = GrabCut().segment([picture((mask, RED))], [layout_of(mask)])
    assert run.size == (500, 700) and overlap(run, mask) > 0.95


def test_masks_are_the_same_to_the_bit_whatever_the_batch_and_the_state_of_the_generator():
    masks = [SHAPES[name] for name in ("disc", "ring", "bar")]
    images, layouts = [picture((m, RED), grain=12.0) for m in masks], [layout_of(m) for m in masks]
    together = GrabCut().segment(images, layouts)
    for i in (2, 0, 1):
        cv2.setRNGSeed(i + 99)
        assert GrabCut().segment([images[i]], [layouts[i]]) == [together[i]]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 20000), (90, 70)])
def test_every_mask_has_the_size_of_its_image(size):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *size), np.uint8))
    boxes = [
        [0.0, 0.0, 1.0, 1.0],
        [0.0, 0.0, 0.5, 0.5],
        [0.9, 0.9, 1.0, 1.0],
        [0.3, 0.3, 0.3, 0.3],
        [-0.2, 0.1, 1.2, 0.9],
    ]
    (runs,) = GrabCut().segment([image], [Layout(torch.tensor(boxes), ["thing"] * len(boxes))])
    assert [run.size for run in runs] == [size] * len(boxes)
    assert runs[0].area > 0 and runs[3].area == 0


def test_a_mask_of_another_size_is_refused():
    layout = replace(layout_of(SHAPES["disc"]), masks=RunLengths.encode(torch.ones(1, 5, 5, dtype=torch.bool)))
    with pytest.raises(ValueError, match="masks must have the image's size"):
        GrabCut().segment([picture((SHAPES["disc"], RED))], [layout])


def test_an_alpha_is_its_mask_with_a_soft_edge():
    mask, image = SHAPES["disc"], picture((SHAPES["disc"], RED))
    ((run,),) = GrabCut().segment([image], [layout_of(mask)])
    (((alpha, confidence),),) = GrabCut().segment_alpha([image], [layout_of(mask)])
    cut = run.decode()
    assert confidence == 1.0 and alpha.shape == cut.shape
    assert torch.equal(alpha > 0.5, cut)
    soft = (alpha > 0.02) & (alpha < 0.98)
    edge = torch.from_numpy(cv2.morphologyEx(cut.numpy().astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5))) > 0)
    assert 0 < soft.sum() <= (soft & edge).sum()
    assert float(alpha.min()) == 0.0 and float(alpha.max()) == pytest.approx(1.0)


def test_what_was_not_cut_has_no_confidence():
    flat = picture((SHAPES["disc"], (170, 190, 160)), grain=0.0)
    layout = Layout(torch.tensor([[0.25, 0.25, 0.75, 0.5], [0.3, 0.3, 0.3, 0.3]]), ["thing", "nothing"])
    (((filled, confidence), (empty, none)),) = GrabCut().segment_alpha([flat], [layout])
    assert confidence == none == 0.0
    assert float((filled > 0.5).sum()) == 60 * 30 and float(empty.max()) == 0.0
    assert GrabCut().segment_alpha([flat], [Layout.empty()]) == [[]]
