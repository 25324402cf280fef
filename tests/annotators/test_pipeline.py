import threading
from dataclasses import replace

import pytest
import torch

from scenewright.annotators.pipeline import Timings, annotate, seed_of
from scenewright.checkpoints import CheckpointError
from scenewright.layout import EncodedImage, Layout, RunLengths, Sample, Verdict

BOX = torch.tensor([[0.25, 0.25, 0.75, 0.75]])


def image_of(value: int) -> torch.Tensor:
    return torch.full((3, 8, 12), value, dtype=torch.uint8)


def samples(count: int) -> list[Sample]:
    return [Sample.from_image(f"k{i}", image_of(i)) for i in range(count)]


class Names:
    def tag(self, images):
        return [[f"t{int(image[0, 0, 0])}"] for image in images]


class Boxes:
    """One box per image, labelled with the first tag; none in the images whose value is in ``blank``."""

    def __init__(self, boxes=BOX, blank=()):
        self.boxes, self.blank = boxes, blank

    def detect(self, images, tags):
        return [
            Layout.empty() if int(i[0, 0, 0]) in self.blank else Layout(self.boxes, (t or ["?"]) * len(self.boxes))
            for i, t in zip(images, tags, strict=True)
        ]


class Fills:
    def segment(self, images, layouts):
        assert all(map(len, layouts)), "an image without regions was sent to be segmented"
        return [
            RunLengths.encode(torch.ones(len(x), *i.shape[1:]).bool()) for i, x in zip(images, layouts, strict=True)
        ]


class Says:
    def caption(self, images, layouts):
        return [[f"a {label}" for label in layout.labels] for layout in layouts]


ALL = dict(tagger=Names(), detector=Boxes(), segmenter=Fills(), captioner=Says())


def test_no_samples_give_none():
    assert list(annotate([], **ALL)) == []


def test_every_stage_adds_what_it_promises():
    (sample,) = annotate(samples(1), **ALL)
    assert sample.tags == ["t0"] and sample.layout.labels == ["t0"] and sample.layout.captions == ["a t0"]
    assert sample.layout.masks[0].area == 96 and sample.caption == "a image" and sample.status == "ok"


def test_a_stage_left_out_leaves_what_was_there():
    (boxed,) = annotate(samples(1), **ALL | {"captioner": None})
    (again,) = annotate([boxed], captioner=Says())
    assert again.layout.boxes is boxed.layout.boxes and again.layout.masks == boxed.layout.masks
    assert again.tags == boxed.tags and again.layout.captions == ["a t0"]


def test_a_caption_that_was_given_is_kept():
    (sample,) = annotate([replace(samples(1)[0], caption="given")], **ALL)
    assert sample.caption == "given"


def test_an_image_without_regions_is_empty_and_still_gets_its_caption():
    out = list(annotate(samples(3), **ALL | {"detector": Boxes(blank=(1,))}))
    assert [s.status for s in out] == ["ok", "empty", "ok"] and out[1].caption == "a image"


@pytest.mark.parametrize("batch_size", [1, 2, 7, 50])
def test_results_do_not_depend_on_the_batch_size(batch_size):
    out = list(annotate(samples(9), **ALL, batch_size=batch_size, workers=3))
    assert [s.key for s in out] == [f"k{i}" for i in range(9)]
    assert [s.layout.labels for s in out] == [[f"t{i}"] for i in range(9)]


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_plugin_that_raises_on_one_image_loses_that_image_only(batch_size):
    class Fussy(Boxes):
        def detect(self, images, tags):
            if any(int(i[0, 0, 0]) == 5 for i in images):
                raise RuntimeError("no fives <object at 0x7f00aa>")
            return super().detect(images, tags)

    out = list(annotate(samples(9), **ALL | {"detector": Fussy()}, batch_size=batch_size))
    assert [s.status for s in out if s.key != "k5"] == ["ok"] * 8
    assert out[5].status == "error: detector: RuntimeError: no fives <object>"


@pytest.mark.parametrize("stage", ["tagger", "detector", "segmenter", "captioner"])
def test_a_plugin_that_returns_the_wrong_count_is_named(stage):
    verb = {"tagger": "tag", "detector": "detect", "segmenter": "segment", "captioner": "caption"}[stage]
    short = type("Short", (), {verb: lambda self, *arguments: []})()
    out = list(annotate(samples(2), **ALL | {stage: short}))
    assert all(s.error == f"{stage}: Short.{verb} returned 0 items for 1 images" for s in out)


@pytest.mark.parametrize(
    ("plugin", "verb", "answer", "message"),
    [
        ("tagger", "tag", "dog", "tags of an image must be a list of strings, got 'dog'"),
        ("captioner", "caption", [], r"one of the captions per region (1), got 0"),
        ("captioner", "caption", "a", "captions of an image must be a list of strings, got 'a'"),
        ("captioner", "caption", [None], "must be a list of strings, got [None]"),
    ],
)
def test_texts_of_another_kind_or_count_fail_their_image(plugin, verb, answer, message):
    odd = type("Odd", (), {verb: lambda self, images, *more: [answer for _ in images]})()
    (sample,) = annotate([replace(samples(1)[0], caption="given")], **ALL | {plugin: odd})
    assert message in sample.error


def test_boxes_that_came_with_an_image_are_mended_too():
    layout = Layout(torch.tensor([[float("nan"), 0, 1, 1], [0.1, 0.1, 0.5, 0.5]]), ["a", "b"])
    (sample,) = annotate([replace(samples(1)[0], layout=layout)])
    assert sample.layout.labels == ["b"] and "not finite" in sample.warnings[0]


def test_boxes_that_cannot_be_are_dropped_or_clipped_and_said():
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [[nan, 0, 1, 1], [0, 0, inf, 1], [-0.5, 0.2, 0.5, 1.7], [0.6, 0.6, 0.6, 0.9], [2, 2, 3, 3], [0, 0, 1, 1]]
    )
    (sample,) = annotate(samples(1), detector=Boxes(boxes))
    assert torch.allclose(sample.layout.boxes, torch.tensor([[0, 0.2, 0.5, 1.0], [0, 0, 1, 1]]))
    assert sample.warnings == [
        "2 of 6 boxes had values that are not finite and were dropped",
        "2 of 6 boxes had no area inside the image and were dropped",
        "1 of 6 boxes reached outside the image and were clipped",
    ]


def test_a_box_with_a_score_that_is_not_finite_is_dropped():
    class Unsure:
        def detect(self, images, tags):
            return [Layout(BOX.repeat(2, 1), ["a", "b"], scores=torch.tensor([float("nan"), 0.5])) for _ in images]

    (sample,) = annotate(samples(1), detector=Unsure())
    assert sample.layout.labels == ["b"]


def test_a_mask_of_another_size_fails_its_image():
    class Small(Fills):
        def segment(self, images, layouts):
            return [RunLengths.encode(torch.ones(len(x), 2, 3).bool()) for x in layouts]

    (sample,) = annotate(samples(1), **ALL | {"segmenter": Small()})
    assert sample.error == "segmenter: masks must have the size of their image, (8, 12), got (2, 3)"


def test_a_mask_that_came_with_an_image_of_another_size_fails_it():
    masks = RunLengths.encode(torch.ones(1, 2, 3).bool())
    (sample,) = annotate([replace(samples(1)[0], layout=Layout(BOX, ["a"], masks=masks))])
    assert "masks must have the size of their image" in sample.error


def test_an_image_that_cannot_be_read_is_counted_and_the_others_go_on(tmp_path):
    def missing() -> bytes:
        return (tmp_path / "gone.jpg").read_bytes()

    good = samples(2)
    bad = [Sample("gone", EncodedImage(missing, "jpg")), Sample("text", EncodedImage(b"text", "jpg")), Sample("none")]
    out = list(annotate([good[0], *bad, good[1]], **ALL))
    assert [s.status.split(":")[0] for s in out] == ["ok", "error", "error", "error", "ok"]
    assert out[1].error.startswith("FileNotFoundError") and out[2].error == "the file is not an image"


def test_a_sample_that_already_failed_stays_as_it_is():
    failed = Sample("a", error="why")
    assert list(annotate([failed], **ALL)) == [failed]


def test_seeds_are_the_images_own():
    class Random(Names):
        def tag(self, images, seeds):
            return [[str(seed)] for seed in seeds]

    def tags(**options):
        return [s.tags for s in annotate(samples(5), tagger=Random(), **options)]

    assert tags(batch_size=1) == tags(batch_size=5) == [[str(seed_of(f"k{i}", 0))] for i in range(5)]
    assert tags(seed=1) != tags(seed=0) and len(set(map(str, tags()))) == 5


def test_images_are_decoded_in_other_threads(picture):
    threads = set()

    def read():
        threads.add(threading.current_thread().name)
        return picture()

    list(annotate([Sample(str(i), EncodedImage(read, "jpg")) for i in range(8)], **ALL))
    assert threads and threading.current_thread().name not in threads


def test_timings_name_the_stages_and_count_the_images():
    timings = Timings()
    list(annotate(samples(5), **ALL, timings=timings))
    assert timings.images == 5 and set(timings.seconds) == {"wait", "tagger", "detector", "segmenter", "captioner"}


def test_batch_size_must_be_positive():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        list(annotate(samples(1), batch_size=0))


class Refuses:
    """Drops the regions whose label it does not like, and the images of one value."""

    def __init__(self, after="detector", labels=(), value=None):
        self.after, self.labels, self.value = after, labels, value

    def judge(self, samples):
        return [
            Verdict(
                image="too dark" if int(s.image[0, 0, 0]) == self.value else "",
                regions=["disliked" if label in self.labels else "" for label in s.layout.labels],
            )
            for s in samples
        ]


def test_what_a_filter_drops_leaves_the_layout_and_keeps_its_reason():
    out = list(annotate(samples(2), **ALL, filters=[Refuses(labels=["t1"])]))
    assert [len(s.layout) for s in out] == [1, 0] and [s.status for s in out] == ["ok", "empty"]
    assert out[1].dropped.labels == ["t1"] and out[1].reasons == ["disliked"] and not out[1].dropped.captions


def test_later_stages_never_see_what_a_filter_dropped():
    seen = []

    class Counts(Fills):
        def segment(self, images, layouts):
            seen.extend(map(len, layouts))
            return super().segment(images, layouts)

    list(annotate(samples(3), **ALL | {"segmenter": Counts()}, filters=[Refuses(labels=["t1"])]))
    assert seen == [1, 1]


def test_purged_regions_are_forgotten():
    (sample,) = annotate(samples(1), **ALL, filters=[Refuses(labels=["t0"])], purge=True)
    assert len(sample.layout) == len(sample.dropped) == len(sample.reasons) == 0


def test_regions_dropped_after_different_stages_stand_together():
    boxes = torch.cat([BOX, BOX / 2, BOX / 4])

    class Three(Boxes):
        def detect(self, images, tags):
            return [Layout(boxes, ["a", "b", "c"]) for _ in images]

    filters = [Refuses(labels=["a"]), Refuses("captioner", labels=["c"])]
    (sample,) = annotate(samples(1), **ALL | {"detector": Three()}, filters=filters)
    assert sample.layout.labels == ["b"] and sample.dropped.labels == ["a", "c"]
    assert sample.dropped.captions == ["", "a c"] and sample.dropped.masks is None
    assert torch.equal(sample.dropped.boxes, boxes[[0, 2]])


def test_a_rejected_image_is_seen_by_no_later_stage_and_takes_no_other_with_it():
    seen = []

    class Sees(Names):
        def tag(self, images):
            seen.extend(int(i[0, 0, 0]) for i in images)
            return super().tag(images)

    out = list(annotate(samples(3), **ALL | {"tagger": Sees()}, filters=[Refuses("source", value=1)]))
    assert seen == [0, 2] and [s.status for s in out] == ["ok", "dropped: too dark", "ok"]


def test_a_filter_must_name_a_stage():
    with pytest.raises(ValueError, match="Refuses.after must be one of .*'captioner'.*, got 'lunch'"):
        list(annotate(samples(1), **ALL, filters=[Refuses("lunch")]))


@pytest.mark.parametrize("verdicts", [[], [Verdict(regions=["a", "b", "c"])]], ids=["too few", "reasons for others"])
def test_a_filter_that_miscounts_costs_its_image_only(verdicts):
    class Miscounts:
        after = "detector"

        def judge(self, samples):
            return verdicts

    (sample,) = annotate(samples(1), **ALL, filters=[Miscounts()])
    assert sample.status.startswith("error: filters: ")


def test_missing_weights_stop_the_run():
    class Heavy:
        def detect(self, images, tags):
            raise CheckpointError("no weights here")

    with pytest.raises(CheckpointError, match="no weights here"):
        list(annotate(samples(3), detector=Heavy()))


def test_a_batch_that_is_too_much_for_the_memory_is_halved_and_said(caplog):
    class Greedy(Names):
        def tag(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("too much")
            return super().tag(images)

    out = list(annotate(samples(8), tagger=Greedy(), batch_size=8))
    assert [s.tags for s in out] == [[f"t{i}"] for i in range(8)]
    assert "tagger ran out of memory on 8 images" in caplog.text


def test_boxes_stay_as_they_came_where_clipping_is_off():
    boxes = torch.tensor([[-0.1, 0.2, 0.5, 1.2], [0.3, 0.3, 0.3, 0.9]])
    (clipped,) = annotate(samples(1), detector=Boxes(boxes))
    (raw,) = annotate(samples(1), detector=Boxes(boxes), clip_boxes=False)
    assert torch.equal(clipped.layout.boxes, torch.tensor([[0.0, 0.2, 0.5, 1.0]]))
    assert torch.equal(raw.layout.boxes, boxes[:1]) and raw.warnings == [
        "1 of 2 boxes had no area inside the image and were dropped"
    ]


def test_regions_are_not_described_again_where_the_image_cannot_be():
    asked = []

    class Says1(Says):
        def caption(self, images, layouts):
            asked.extend(layout.labels[0] for layout in layouts)
            if any(int(i[0, 0, 0]) == 2 and x.labels == ["image"] for i, x in zip(images, layouts, strict=True)):
                raise ValueError("no words")
            return super().caption(images, layouts)

    out = list(annotate(samples(4), **ALL | {"captioner": Says1()}))
    assert [s.status for s in out] == ["ok", "ok", "error: captioner: no words", "ok"]
    assert [x for x in asked if x != "image"] == ["t0", "t1", "t2", "t3"]
