import pytest
import torch
from hydra.utils import instantiate

from scenewright.annotators.detectors.sliced import Sliced, tiles_of
from scenewright.annotators.seeds import derived
from scenewright.layout import Layout, RunLengths
from scenewright.protocols import Detector


class Colours:
    """Finds each saturated colour as one region with a mask; a share of the view is its score."""

    def __init__(self, masks=True):
        self.masks, self.calls = masks, []

    def detect(self, images, tags):
        self.calls.append((len(images), [list(x) for x in tags]))
        return [self._detect(image) for image in images]

    def _detect(self, image):
        masks = [m for m in (image == 255).unbind(0) if m.any()]
        names = [name for name, m in zip(("red", "green", "blue"), (image == 255).unbind(0), strict=True) if m.any()]
        if not masks:
            return Layout.empty()
        encoded = RunLengths.encode(torch.stack(masks))
        scores = torch.tensor([0.2 + 0.8 * float(m.float().mean()) for m in masks])
        return Layout(
            torch.stack([m.box for m in encoded]), names, scores=scores, masks=encoded if self.masks else None
        )


def scene(height=100, width=160):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[0, 10:20, 12:22] = 255  # within the first tile
    image[1, 30:70, 20:150] = 255  # wider than a tile
    return image


@pytest.mark.parametrize("size", [(1, 1), (63, 64), (65, 64), (100, 160), (64, 1000)])
def test_tiles_cover_the_image_and_have_one_size(size):
    height, width = size
    tiles = tiles_of(height, width, 64, 0.25)
    seen = torch.zeros(size, dtype=torch.bool)
    for left, top, right, bottom in tiles:
        seen[top:bottom, left:right] = True
        assert (right - left, bottom - top) == (min(64, width), min(64, height))
    assert seen.all() and len(set(tiles)) == len(tiles)


def test_no_images_and_nothing_found_are_fine():
    sliced = Sliced(Colours(), side=64)
    assert isinstance(sliced, Detector) and sliced.detect([], []) == []
    assert len(sliced.detect([torch.zeros(3, 100, 100, dtype=torch.uint8)], [[]])[0]) == 0


def test_all_tiles_of_all_images_go_to_the_detector_at_once():
    inner = Colours()
    Sliced(inner, side=64, overlap=0.25).detect([scene(), scene(40, 40)], [["a"], ["b"]])
    ((count, tags),) = inner.calls
    assert count == 1 + 2 * 3 + 1  # a small image is not sliced
    assert tags == [["a"]] * 7 + [["b"]]


def test_regions_are_placed_in_the_image_with_their_masks_and_cut_ones_go():
    (layout,) = Sliced(Colours(), side=64).detect([scene()], [[]])
    assert sorted(layout.labels) == ["green", "red"]
    for label, plane in (("red", 0), ("green", 1)):
        i = layout.labels.index(label)
        assert torch.equal(layout.masks[i].decode(), scene()[plane] == 255)
        torch.testing.assert_close(layout.boxes[i], layout.masks[i].box)


def test_the_surest_come_first_and_max_boxes_holds():
    (both,) = Sliced(Colours(), side=64).detect([scene()], [[]])
    assert both.scores.tolist() == sorted(both.scores.tolist(), reverse=True)
    (one,) = Sliced(Colours(), side=64, max_boxes=1).detect([scene()], [[]])
    assert one.labels == both.labels[:1]


def test_without_the_whole_image_what_is_cut_stays_in_pieces():
    (layout,) = Sliced(Colours(), side=64, whole=False).detect([scene()], [[]])
    assert layout.labels.count("green") > 1 and layout.labels.count("red") == 1


def test_a_small_region_is_surer_in_its_tile():
    """What slicing is for: the detector's score grows with the region's share of the view."""
    (whole,) = Colours().detect([scene()], [[]])
    (sliced,) = Sliced(Colours(), side=64).detect([scene()], [[]])
    assert sliced.scores[sliced.labels.index("red")] > whole.scores[whole.labels.index("red")]


def test_masks_are_left_out_where_the_detector_gives_none():
    (layout,) = Sliced(Colours(masks=False), side=64).detect([scene()], [[]])
    assert layout.masks is None and sorted(layout.labels) == ["green", "red"]


def test_a_layout_does_not_depend_on_its_batch():
    images = [scene(), scene(40, 40), torch.zeros(3, 70, 90, dtype=torch.uint8)]
    together = Sliced(Colours(), side=64).detect(images, [[]] * 3)
    for image, layout in zip(images, together, strict=True):
        (alone,) = Sliced(Colours(), side=64).detect([image], [[]])
        assert torch.equal(alone.boxes, layout.boxes) and alone.labels == layout.labels


def test_every_tile_has_a_seed_of_its_own():
    class Seeded(Colours):
        def detect(self, images, tags, *, seeds):
            self.seeds = list(seeds)
            return super().detect(images, tags)

    inner = Seeded()
    Sliced(inner, side=64).detect([scene(40, 40), scene()], [[]] * 2, seeds=[7, 8])
    assert inner.seeds == [derived(7, 0)] + [derived(8, i) for i in range(7)] and len(set(inner.seeds)) == 8


def test_regions_without_scores_are_refused():
    class Bare:
        def detect(self, images, tags):
            return [Layout.whole() for _ in images]

    with pytest.raises(ValueError, match="the layout has none"):
        Sliced(Bare()).detect([scene()], [[]])


@pytest.mark.parametrize("settings", [{"side": 0}, {"overlap": 1.0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match="side must be at least 1 and overlap in"):
        Sliced(Colours(), **settings)


def test_the_inner_detector_is_swapped_from_the_command_line(config):
    cfg = config(
        "annotate",
        "experiment=embedded",
        "annotator/detector=sliced",
        "annotator/detector@annotator.detector.detector=superpixels",
        "annotator.detector.side=96",
        "output_dir=x",
    )
    (layout,) = instantiate(cfg.annotator.detector).detect([scene(128, 160)], [[]])
    assert {"red", "green"} <= {label.split()[0] for label in layout.labels}
