import importlib.util
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

from scenewright.annotators.detectors.verified import Verified
from scenewright.annotators.similarity import CLIP
from scenewright.checkpoints import MissingWeights, checkpoints_of
from scenewright.layout import Layout
from scenewright.protocols import Detector

_spec = importlib.util.spec_from_file_location("clip_for_tests", Path(__file__).with_name("test_similarity.py"))
_clips = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_clips)
picture = _clips.picture


@pytest.fixture(scope="session")
def checkpoint(tiny_clip, tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("verifying_clip"))


BOXES = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]])


class Known:
    """Returns what it was given: labels of as many boxes."""

    def __init__(self, *labels):
        self.labels = labels

    def detect(self, images, tags):
        return [Layout(BOXES[: len(x)], list(x), scores=torch.linspace(0.9, 0.5, len(x))) for x in self.labels]


class Answers:
    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def caption(self, images, layouts):
        self.asked.append([x.labels for x in layouts])
        return [list(x) for x in self.answers]


IMAGES = [picture(0), picture(1, 64, 50), picture(2)]
LABELS = (["red dog", "cat"], [], ["blue cat", "dog", "red cat"])
NEGATIVES = ["background", "red", "blue photo"]


def best(checkpoint, image, box, texts):
    """The place of the text that goes best with a crop, by CLIP called plainly."""
    height, width = image.shape[1:]
    x0, y0, x1, y1 = (box * torch.tensor([width, height, width, height])).round().int().tolist()
    clip = CLIP(checkpoint)
    return int((clip.of_pictures([image[:, y0:y1, x0:x1]]) @ clip.of_texts(texts, "cpu").T).argmax())


def test_boxes_whose_best_text_is_a_negative_are_dropped(checkpoint):
    wrapper = Verified(Known(*LABELS), negatives=NEGATIVES, prompt="{label}", padding=0.0, checkpoint=checkpoint)
    assert isinstance(wrapper, Detector)
    layouts = wrapper.detect(IMAGES, [[]] * 3)
    outcomes = []
    for image, labels, layout in zip(IMAGES, LABELS, layouts, strict=True):
        wins = [best(checkpoint, image, BOXES[i], [x, *NEGATIVES]) == 0 for i, x in enumerate(labels)]
        assert layout.labels == [x for x, win in zip(labels, wins, strict=True) if win]
        outcomes += wins
    assert set(outcomes) == {True, False}  # else nothing was tried


def test_regions_keep_their_scores_and_order_and_do_not_depend_on_the_batch(checkpoint):
    def wrapper(*labels):
        return Verified(Known(*labels), negatives=NEGATIVES, checkpoint=checkpoint, batch_size=2)

    together = wrapper(*LABELS).detect(IMAGES, [[]] * 3)
    alone = [wrapper(x).detect([i], [[]])[0] for i, x in zip(IMAGES, LABELS, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert a.labels == b.labels and torch.equal(a.boxes, b.boxes)
        assert a.scores is None or torch.equal(a.scores, a.scores.sort(descending=True).values)


def test_nothing_found_asks_nobody(tmp_path):
    assert Verified(Known(), checkpoint=str(tmp_path)).detect([], []) == []
    (layout,) = Verified(Known([]), checkpoint=str(tmp_path)).detect(IMAGES[:1], [[]])
    assert len(layout) == 0


def test_a_box_that_is_called_like_a_negative_goes(checkpoint):
    (layout,) = Verified(Known(["Background"]), negatives=["background", "cat"], checkpoint=checkpoint).detect(
        IMAGES[:1], [[]]
    )
    assert len(layout) == 0


def test_a_higher_minimum_keeps_fewer(checkpoint):
    def count(minimum):
        wrapper = Verified(Known(*LABELS), negatives=["red"], minimum=minimum, checkpoint=checkpoint)
        return sum(map(len, wrapper.detect(IMAGES, [[]] * 3)))

    assert count(0.0) == count(0.5) > count(1.01) == 0


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Yes", True),
        (" yes, there is a dog.", True),
        ("**Yes**", True),
        ("No", False),
        ("Yesterday", False),
        ("", False),
        ("It is a dog, yes", False),
    ],
)
def test_a_captioner_must_answer_yes(answer, kept):
    (layout,) = Verified(Known(["dog"]), Answers([answer])).detect(IMAGES[:1], [[]])
    assert len(layout) == kept


def test_a_captioner_is_asked_about_all_images_with_boxes_at_once():
    judge = Answers(["no", "yes"], ["yes", "no", "yes"])
    layouts = Verified(Known(*LABELS), judge).detect(IMAGES, [[]] * 3)
    assert judge.asked == [[LABELS[0], LABELS[2]]]
    assert [x.labels for x in layouts] == [["cat"], [], ["blue cat", "red cat"]]


def test_a_captioner_that_miscounts_is_told():
    with pytest.raises(ValueError, match=r"one answer per box \(2\), got 1"):
        Verified(Known(["a", "b"]), Answers(["yes"])).detect(IMAGES[:1], [[]])


def test_seeds_are_passed_to_who_takes_them():
    class Seeded(Known):
        def detect(self, images, tags, *, seeds):
            self.seeds = seeds
            return super().detect(images, tags)

    inner = Seeded(["dog"])
    Verified(inner, Answers(["yes"])).detect(IMAGES[:1], [[]], seeds=[5])
    assert inner.seeds == [5]


def test_only_the_weights_that_are_needed_are_asked_for(tmp_path):
    assert [x.name for x in checkpoints_of(Verified(Known()))] == ["openai/clip-vit-base-patch32"]
    assert list(checkpoints_of(Verified(Known(), Answers()))) == []
    with pytest.raises(MissingWeights, match="has no config.json"):
        Verified(Known(["dog"]), checkpoint=str(tmp_path)).detect(IMAGES[:1], [[]])


def test_without_negatives_there_is_nothing_to_win_against():
    with pytest.raises(ValueError, match="negatives must name at least one thing"):
        Verified(Known(), negatives=[])


def test_the_inner_detector_and_the_judge_are_swapped_from_the_command_line(config, checkpoint):
    swapped = ["annotator/detector=verified", "annotator/detector@annotator.detector.detector=superpixels"]
    cfg = config(
        "annotate", "experiment=embedded", *swapped, f"annotator.detector.checkpoint={checkpoint}", "output_dir=x"
    )
    wrapper = instantiate(cfg.annotator.detector)
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    image[0, 30:60, 30:60] = 255
    (found,) = wrapper.detector.detect([image], [[]])
    (kept,) = wrapper.detect([image], [[]])
    assert len(found) > 0 and set(kept.labels) <= set(found.labels)
    judged = config(
        "annotate",
        "experiment=embedded",
        *swapped,
        "+annotator/captioner@annotator.detector.captioner=appearance",
        "output_dir=x",
    )
    # it describes and never says yes
    assert len(instantiate(judged.annotator.detector).detect([image], [[]])[0]) == 0
