import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file

from scenewright.annotators.filters.clip_similarity import CLIPSimilarity
from scenewright.annotators.provenance import describe
from scenewright.annotators.similarity import CLIP, cosines
from scenewright.checkpoints import CheckpointError, MissingWeights, check, checkpoints_of
from scenewright.layout import Layout, Sample
from scenewright.protocols import Filter


@pytest.fixture(scope="session")
def checkpoint(tiny_clip, tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip"))


def picture(seed, height=40, width=48):
    values = torch.randint(0, 256, (3, 5, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return torch.nn.functional.interpolate(values[None].float(), (height, width), mode="bilinear")[0].to(torch.uint8)


PICTURES = [picture(0), picture(1, 32, 100), picture(2, 90, 33), picture(3, 32, 32)]
TEXTS = ["a red dog", "cat", "a photo of a blue cat " * 9, ""]


def test_a_score_is_what_transformers_says_of_one_picture_and_one_text(checkpoint):
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    clip = CLIP(checkpoint)
    got = cosines(clip.of_pictures(PICTURES), clip.of_texts(TEXTS, "cpu"))
    for value, image, text in zip(got, PICTURES, TEXTS, strict=True):
        inputs = processor(text=[text], images=[image], return_tensors="pt", truncation=True, max_length=20)
        with torch.no_grad():
            expected = network(**inputs).logits_per_image[0, 0]
        torch.testing.assert_close(value, expected, atol=1e-2, rtol=0)  # of a scale of 100
    assert clip.scale == pytest.approx(100, abs=0.01) and got.std() > 1


def test_a_batch_changes_nothing(checkpoint):
    clip, one = CLIP(checkpoint, batch_size=64), CLIP(checkpoint, batch_size=1)
    torch.testing.assert_close(clip.of_pictures(PICTURES), one.of_pictures(PICTURES), atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.of_texts(TEXTS, "cpu"), one.of_texts(TEXTS, "cpu"), atol=1e-4, rtol=0)
    assert torch.equal(clip.of_pictures(PICTURES), clip.of_pictures(PICTURES))


def test_nothing_to_look_at_is_nothing(checkpoint):
    clip = CLIP(checkpoint)
    assert clip.of_pictures([]).shape == clip.of_texts([], "cpu").shape == (0, 16)


def test_equal_texts_are_read_once_and_their_order_is_kept(checkpoint):
    clip, seen = CLIP(checkpoint), []
    read = clip._read
    clip._read = lambda texts, device: seen.extend(texts) or read(texts, device)
    got = clip.of_texts(["cat", "dog", "cat"], "cpu")
    assert seen == ["cat", "dog"] and torch.equal(got[0], got[2]) and not torch.equal(got[0], got[1])


def test_slivers_and_single_pixels_are_looked_at(checkpoint):
    slivers = [picture(0, 1, 20_000), picture(0, 5000, 1), picture(0, 1, 1)]
    directions = CLIP(checkpoint).of_pictures(slivers)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(3))


def test_of_a_long_picture_clip_sees_the_middle(checkpoint):
    long = torch.cat([torch.zeros(3, 32, 300, dtype=torch.uint8), picture(1, 32, 320), picture(2, 32, 300)], 2)
    clip = CLIP(checkpoint)
    other = torch.cat([picture(3, 32, 300), long[:, :, 300:]], 2)
    torch.testing.assert_close(clip.of_pictures([long]), clip.of_pictures([other]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(1, 101), (101, 1), (3, 100), (2, 61)])
def test_of_a_sliver_clip_sees_what_transformers_shows_it(checkpoint, size):
    from transformers import CLIPModel, CLIPProcessor

    sliver = torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    inputs = CLIPProcessor.from_pretrained(checkpoint)(images=[sliver], return_tensors="pt")
    with torch.no_grad():
        seen = CLIPModel.from_pretrained(checkpoint).eval().get_image_features(**inputs)
    seen = torch.nn.functional.normalize(getattr(seen, "pooler_output", seen), dim=-1)
    torch.testing.assert_close(CLIP(checkpoint).of_pictures([sliver]), seen, atol=2e-3, rtol=0)


def test_a_whole_picture_is_seen_in_a_square_of_the_colour_that_becomes_zero(checkpoint):
    from PIL import Image as PILImage
    from transformers import CLIPModel, CLIPProcessor

    network, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    for image, (width, height) in zip([PICTURES[1], PICTURES[2]], [(32, 10), (12, 32)], strict=True):
        square = PILImage.new("RGB", (32, 32), (123, 117, 104))
        fitted = PILImage.fromarray(image.permute(1, 2, 0).numpy()).resize((width, height), PILImage.Resampling.BICUBIC)
        square.paste(fitted, ((32 - width) // 2, (32 - height) // 2))
        inputs = processor(images=[square], return_tensors="pt")
        assert inputs["pixel_values"][0, :, 0, 0].abs().max() < 0.01
        with torch.no_grad():
            seen = network.get_image_features(**inputs)
        seen = torch.nn.functional.normalize(getattr(seen, "pooler_output", seen), dim=-1)
        clip = CLIP(checkpoint)
        torch.testing.assert_close(clip.of_pictures([image], whole=True), seen, atol=2e-3, rtol=0)
        assert (clip.of_pictures([image]) - seen).abs().max() > 0.02


def test_of_a_square_picture_all_is_seen_either_way(checkpoint):
    clip = CLIP(checkpoint)
    squares = [picture(5, 64, 64), picture(6, 1, 1), PICTURES[3]]
    torch.testing.assert_close(clip.of_pictures(squares, whole=True), clip.of_pictures(squares), atol=1e-5, rtol=0)


def test_whole_slivers_and_single_pixels_are_looked_at_in_any_batch(checkpoint):
    slivers = [picture(0, 1, 20_000), picture(0, 5000, 1), picture(0, 1, 1), *PICTURES]
    together = CLIP(checkpoint).of_pictures(slivers, whole=True)
    alone = CLIP(checkpoint, batch_size=1).of_pictures(slivers, whole=True)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_several_metrics_of_one_network_load_it_once(checkpoint):
    one, same, other = CLIP(checkpoint), CLIP(checkpoint, batch_size=3), CLIP(checkpoint, dtype="bfloat16")
    for clip in (one, same, other):
        assert clip.scale > 0
    assert one._network is same._network and one._network is not other._network


def test_a_network_without_a_processor_takes_that_of_another(checkpoint, tmp_path):
    from transformers import CLIPImageProcessor, CLIPProcessor

    network, other = tmp_path / "network", tmp_path / "other"
    shutil.copytree(checkpoint, other)
    network.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).rename(network / name)
    clip = CLIP(str(network), processor=str(other))
    assert torch.equal(clip.of_pictures(PICTURES), CLIP(checkpoint).of_pictures(PICTURES))
    assert torch.equal(clip.of_texts(TEXTS, "cpu"), CLIP(checkpoint).of_texts(TEXTS, "cpu"))
    grey = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_mean=[0.5] * 3)
    CLIPProcessor(grey, CLIPProcessor.from_pretrained(checkpoint).tokenizer).save_pretrained(other)
    greyer = CLIP(str(network), processor=str(other)).of_pictures(PICTURES)
    assert not torch.allclose(greyer, CLIP(checkpoint).of_pictures(PICTURES), atol=1e-3)


def test_the_files_that_are_asked_for_are_enough(checkpoint, tmp_path):
    """Of a repository as it was saved before transformers 5."""
    from transformers import CLIPProcessor

    before, after = tmp_path / "before", tmp_path / "after"
    shutil.copytree(checkpoint, before)
    CLIPProcessor.from_pretrained(checkpoint).image_processor.save_pretrained(before)
    clip = CLIP(str(after / "0"), processor=str(after / "1"))
    for place in clip.checkpoints:
        Path(place.name).mkdir(parents=True)
        for file in place.files:
            shutil.copy(before / file, place.name)
    assert torch.equal(clip.of_pictures(PICTURES), CLIP(checkpoint).of_pictures(PICTURES))
    assert torch.equal(clip.of_texts(TEXTS, "cpu"), CLIP(checkpoint).of_texts(TEXTS, "cpu"))


def test_all_weights_are_known_before_any_is_loaded(checkpoint, tmp_path):
    scorer = CLIP("acme/scorer", revision="a" * 40, processor="acme/clip", processor_revision="b" * 40)
    assert [(x.name, x.revision) for x in checkpoints_of(scorer)] == [
        ("acme/scorer", "a" * 40),
        ("acme/clip", "b" * 40),
    ]
    assert [x.name for x in checkpoints_of(CLIP("acme/clip"))] == ["acme/clip"]
    with pytest.raises(MissingWeights, match=f"judge CLIP: the folder {tmp_path} has no tokenizer.json"):
        check({"judge": CLIP(checkpoint, processor=str(tmp_path))})


def test_an_injected_clip_is_described_in_its_place(checkpoint):
    class Judge:
        def __init__(self, image_text):
            self.image_text = image_text

    known = describe(Judge(CLIP(checkpoint, processor=checkpoint)))["settings"]["image_text"]
    assert known["class"] == "scenewright.annotators.similarity.CLIP" and known["settings"]["processor"] == checkpoint
    assert len(known["checkpoints"]) == 2 and all(len(x["sha256"]) == 64 for x in known["checkpoints"])


def test_weights_that_are_missing_or_of_another_kind_are_named(tmp_path):
    with pytest.raises(MissingWeights, match="the folder .* has no config.json"):
        CLIP(str(tmp_path)).of_pictures(PICTURES)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="cannot be loaded: .*CLIPProcessor needs config.json"):
        CLIP(str(tmp_path)).of_pictures(PICTURES)


def test_a_repository_that_holds_a_bin_only_is_read_without_running_code(checkpoint, tmp_path):
    """OpenAI's of ViT-B/32 is one."""
    folder = tmp_path / "bin"
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert torch.equal(CLIP(str(folder)).of_pictures(PICTURES), CLIP(checkpoint).of_pictures(PICTURES))
    torch.save({"x": Path("code")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="a pickle can run code"):
        CLIP(str(folder)).of_pictures(PICTURES)


# ---- the filter


def sample(image, boxes, captions=(), labels=None):
    layout = Layout(torch.tensor(boxes).reshape(-1, 4), labels or ["dog"] * len(boxes), list(captions))
    return Sample.from_image("a", image, layout=layout)


HALVES = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]


def scores_of(checkpoint, image, texts):
    clip = CLIP(checkpoint)
    middle = image.shape[2] // 2
    crops = [image[:, :, :middle], image[:, :, middle:]]
    return cosines(clip.of_pictures(crops), clip.of_texts(texts, "cpu")).tolist()


def test_a_region_that_does_not_look_like_its_caption_is_dropped_with_value_and_limit(checkpoint):
    texts = ["a red dog", "cat"]
    values = scores_of(checkpoint, PICTURES[0], texts)
    limit = sum(values) / 2
    (verdict,) = CLIPSimilarity(limit, checkpoint=checkpoint).judge([sample(PICTURES[0], HALVES, texts)])
    low = values.index(min(values))
    assert verdict.regions[1 - low] == "" and verdict.regions[low].startswith("similarity to its caption ")
    assert float(verdict.regions[low].split()[4]) == pytest.approx(min(values), rel=0.02)
    assert " is below " in verdict.regions[low]


def test_verdicts_do_not_depend_on_the_batch_and_empty_texts_are_kept(checkpoint):
    judge = CLIPSimilarity(99.9, checkpoint=checkpoint, batch_size=2)
    some = [
        sample(PICTURES[0], []),
        sample(PICTURES[1], HALVES, ["a red dog", " "]),
        sample(PICTURES[2], HALVES),
        sample(PICTURES[3], HALVES, ["cat", "dog"]),
    ]
    verdicts = judge.judge(some)
    assert [[bool(x) for x in v.regions] for v in verdicts] == [[], [True, False], [], [True, True]]
    assert verdicts == [v for s in some for v in judge.judge([s])] and judge.judge([]) == []


def test_labels_can_be_judged_before_there_are_captions(checkpoint):
    judge = CLIPSimilarity(99.9, of="labels", prompt="a photo of a {text}", checkpoint=checkpoint)
    assert isinstance(judge, Filter) and judge.after == "detector"
    (verdict,) = judge.judge([sample(PICTURES[0], HALVES, labels=["dog", "cat"])])
    assert all(x.startswith("similarity to its label ") for x in verdict.regions)
    assert CLIPSimilarity(20).after == "captioner"


def test_without_a_limit_it_says_what_a_good_one_is(config):
    cfg = config("annotate", "experiment=embedded", "filter=[clip_similarity]", "output_dir=x")
    with pytest.raises(Exception, match="set filter.clip_similarity.minimum: good captions score about 30"):
        instantiate(cfg.filter.clip_similarity)
    cfg.filter.clip_similarity.minimum = 20
    judge = instantiate(cfg.filter.clip_similarity)
    (weights,) = checkpoints_of(judge)
    assert weights.name == "openai/clip-vit-base-patch32" and len(weights.revision) == 40
    assert describe(judge)["settings"]["minimum"] == 20


def test_a_wrong_text_is_refused():
    with pytest.raises(ValueError, match='of must be "captions" or "labels", got \'tags\''):
        CLIPSimilarity(20, of="tags")


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'fp16'"):
        CLIP("nowhere", dtype="fp16").of_texts(["a dog"], "cpu")
