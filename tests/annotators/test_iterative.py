from functools import partial

import pytest
import torch
from hydra.utils import instantiate

from scenewright.annotators.detectors.chunked import Chunked
from scenewright.annotators.detectors.iterative import Iterative
from scenewright.annotators.detectors.sliced import Sliced
from scenewright.annotators.seeds import derived
from scenewright.layout import Layout, RunLengths
from scenewright.protocols import Detector


class Brightest:
    """Finds the brightest square of red, a single one a look, and what is grey if ``fooled``."""

    def __init__(self, fooled=False, masks=False):
        self.fooled, self.masks, self.seen = fooled, masks, []

    def detect(self, images, tags):
        self.seen.append([x.clone() for x in images])
        return [self._detect(image) for image in images]

    def _detect(self, image):
        red = image[0]
        if red.max() < 100:
            return Layout.empty()
        inside = red == red.max()
        (mask,) = RunLengths.encode(inside[None])
        boxes, labels, scores = [mask.box], [f"red {int(red.max())}"], [float(red.max()) / 255]
        if self.fooled and (image[1] > 0).any():
            boxes, labels, scores = (
                [*boxes, RunLengths.encode((image[1] > 0)[None])[0].box],
                [*labels, "grey"],
                [*scores, 1.0],
            )
        return Layout(
            torch.stack(boxes), labels, scores=torch.tensor(scores), masks=[mask] * len(boxes) if self.masks else None
        )


def scene(*values, side=100):
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    for i, value in enumerate(values):
        image[0, 5:20, 5 + 25 * i : 20 + 25 * i] = value
    return image


def test_no_images_and_nothing_found_are_fine():
    wrapper = Iterative(Brightest())
    assert isinstance(wrapper, Detector) and wrapper.detect([], []) == []
    assert len(wrapper.detect([scene()], [[]])[0]) == 0


@pytest.mark.parametrize(("rounds", "found"), [(1, ["red 250"]), (2, ["red 250", "red 200"])])
def test_what_was_found_is_hidden_and_the_next_thing_found(rounds, found):
    (layout,) = Iterative(Brightest(), rounds=rounds).detect([scene(200, 150, 250)], [[]])
    assert layout.labels == found


@pytest.mark.parametrize("hide", ["mean", "blur"])
@pytest.mark.parametrize("masks", [False, True])
def test_it_stops_when_nothing_new_is_found_and_only_open_images_are_looked_at_again(hide, masks):
    inner = Brightest(masks=masks)
    images = [scene(), scene(200), scene(200, 150, 250)]
    layouts = Iterative(inner, rounds=9, hide=hide).detect(images, [[]] * 3)
    assert [x.labels for x in layouts] == [[], ["red 200"], ["red 250", "red 200", "red 150"]]
    assert [len(x) for x in inner.seen] == [3, 2, 1, 1]
    assert all((x.masks is not None) is masks for x in layouts[1:])


class Elsewhere:
    """Regions on another device than their image: they can only be moved."""

    def __init__(self, layout):
        self._layout = layout

    def to(self, device):
        return self._layout


@pytest.mark.parametrize("wrap", [Iterative, partial(Sliced, side=64), Chunked])
def test_regions_are_brought_to_where_their_image_is(wrap):
    class Far(Brightest):
        def _detect(self, image):
            return Elsewhere(super()._detect(image))

    images = [scene(), scene(200, 250)]
    expected = wrap(Brightest()).detect(images, [["red"], ["red"]])
    found = wrap(Far()).detect(images, [["red"], ["red"]])
    assert [x.labels for x in found] == [x.labels for x in expected] and len(found[1])


def test_the_images_given_are_left_as_they_were():
    image = scene(200, 250)
    before = image.clone()
    Iterative(Brightest()).detect([image], [[]])
    assert torch.equal(image, before)


def test_a_detector_that_is_fooled_by_the_paint_is_not_believed():
    class Fooled(Brightest):
        """Takes the painted square for a thing, and is sure of it."""

        def _detect(self, image):
            first = super()._detect(image)
            if image[0, 10, 55] == 250 or not len(first):
                return first
            grey = torch.tensor([[0.5, 0.0, 0.75, 0.25], [0.56, 0.06, 0.69, 0.19]])
            return Layout(
                torch.cat([first.boxes, grey]),
                [*first.labels, "grey frame", "grey square"],
                scores=torch.cat([first.scores, torch.ones(2)]),
            )

    (layout,) = Iterative(Fooled(), rounds=2, nms_threshold=0.3).detect([scene(200, 150, 250)], [[]])
    assert layout.labels == ["red 250", "red 200"]


def test_a_region_that_is_most_of_the_image_is_not_hidden():
    class Room(Brightest):
        def _detect(self, image):
            first = super()._detect(image)
            room = Layout(torch.tensor([[0.0, 0.0, 1.0, 0.9]]), ["room"], scores=torch.tensor([0.99]))
            return (
                first
                if not len(first)
                else Layout(
                    torch.cat([room.boxes, first.boxes]),
                    ["room", *first.labels],
                    scores=torch.cat([room.scores, first.scores]),
                )
            )

    (layout,) = Iterative(Room()).detect([scene(200, 250)], [[]])
    assert layout.labels == ["room", "red 250", "red 200"]


def test_a_layout_does_not_depend_on_its_batch():
    images = [scene(200), scene(250, 150, 200), scene()]
    together = Iterative(Brightest()).detect(images, [[]] * 3)
    for image, layout in zip(images, together, strict=True):
        (alone,) = Iterative(Brightest()).detect([image], [[]])
        assert torch.equal(alone.boxes, layout.boxes) and alone.labels == layout.labels


def test_every_round_has_seeds_of_its_own():
    class Seeded(Brightest):
        def detect(self, images, tags, *, seeds):
            self.given = [*getattr(self, "given", []), list(seeds)]
            return super().detect(images, tags)

    inner = Seeded()
    Iterative(inner).detect([scene(), scene(200)], [[]] * 2, seeds=[7, 8])
    assert inner.given == [[derived(7, 0), derived(8, 0)], [derived(8, 1)]]


@pytest.mark.parametrize("settings", [{"rounds": 0}, {"hide": "paint"}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValueError, match='rounds must be at least 1 and hide "mean" or "blur"'):
        Iterative(Brightest(), **settings)


def test_the_inner_detector_is_swapped_from_the_command_line(config):
    cfg = config(
        "annotate",
        "experiment=embedded",
        "annotator/detector=iterative",
        "annotator/detector@annotator.detector.detector=superpixels",
        "output_dir=x",
    )
    wrapper = instantiate(cfg.annotator.detector)
    image = scene(200, 250, side=120)
    (once,) = wrapper.detector.detect([image], [[]])
    (more,) = wrapper.detect([image], [[]])
    assert len(more) >= len(once) > 0
