"""Prompts for scenes that are composed of personal concepts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st

from scenewright.datasets.concept_prompts import ConceptPrompts, tokens_of
from scenewright.datasets.mixture import Mixture
from scenewright.datasets.shards import Shards, ShardWriter
from scenewright.layout import EncodedImage, Layout, Sample
from scenewright.protocols import RangedDataset

PETS = [("zoo/cat1", "cat"), ("zoo/dog1", "dog"), ("zoo/house_plant", "house plant")]


def scene(*concepts, key="a", background="in the garden", **known):
    boxes = torch.tensor([[0.1, 0.1, 0.9, 0.9]]).repeat(len(concepts), 1)
    composed = {"concepts": [x for x, _ in concepts], "background": background}
    layout = Layout(boxes.reshape(-1, 4), [x for _, x in concepts])
    image = EncodedImage.from_image(torch.zeros(3, 8, 8, dtype=torch.uint8))
    return Sample(key, source=image, caption="pets", layout=layout, metadata={"gen4gen": composed, **known})


class Scenes:
    """Samples of a list."""

    fingerprint = "scenes"

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __iter__(self):
        return iter(self.samples)

    def read(self, start, stop):
        return iter(self.samples[start:stop])


def prompts(*samples, **settings):
    return [x.caption for x in ConceptPrompts(Scenes(*samples), **settings)]


def test_a_prompt_has_a_composition_token_its_concepts_twice_and_its_background():
    assert prompts(scene(*PETS)) == [
        "<comp> photo of <cat1> cat, <dog1> dog and <house_plant> house plant in the garden. "
        "<cat1> cat, <dog1> dog, <house_plant> house plant."
    ]


@pytest.mark.parametrize(
    ("settings", "prompt"),
    [
        ({"composition": None}, "a photo of <cat1> cat and <dog1> dog in the garden. <cat1> cat, <dog1> dog."),
        ({"composition": "all"}, "<all> photo of <cat1> cat and <dog1> dog in the garden. <cat1> cat, <dog1> dog."),
        ({"repeat": False}, "<comp> photo of <cat1> cat and <dog1> dog in the garden"),
        ({"background": False}, "<comp> photo of <cat1> cat and <dog1> dog. <cat1> cat, <dog1> dog."),
        ({"composition": None, "repeat": False, "background": False}, "a photo of <cat1> cat and <dog1> dog"),
        ({"tokens": {"zoo/cat1": "tom"}, "repeat": False}, "<comp> photo of <tom> cat and <dog1> dog in the garden"),
        (
            {"backgrounds": ["on the moon"], "repeat": False},
            "<comp> photo of <cat1> cat and <dog1> dog on the moon",
        ),
    ],
)
def test_each_part_of_a_prompt_can_be_left_out_or_changed(settings, prompt):
    assert prompts(scene(*PETS[:2]), **settings) == [prompt]


def test_a_concept_that_is_there_twice_is_named_once_and_a_lone_one_has_no_and():
    assert prompts(scene(PETS[0], PETS[0]), repeat=False) == ["<comp> photo of <cat1> cat in the garden"]
    assert prompts(scene(PETS[0], background=""), repeat=False) == ["<comp> photo of <cat1> cat"]


def test_two_of_one_class_have_their_own_tokens():
    two = scene(("zoo/cat1", "cat"), ("zoo/cat2", "cat"))
    assert prompts(two, repeat=False) == ["<comp> photo of <cat1> cat and <cat2> cat in the garden"]


def test_other_backgrounds_are_said_one_after_the_other_from_any_place():
    dataset = ConceptPrompts(Scenes(*[scene(*PETS, key=str(i)) for i in range(5)]), backgrounds=["here", "there"])
    said = [x.metadata["background_prompt"] for x in dataset]
    assert said == ["here", "there", "here", "there", "here"]
    assert [x.metadata["background_prompt"] for x in dataset.read(3, 5)] == said[3:]
    assert all(f"house plant {x}. " in sample.caption for x, sample in zip(said, dataset, strict=True))


def test_metrics_find_the_concepts_and_the_background_and_all_else_stays():
    before = scene(*PETS, license="CC0")
    (after,) = ConceptPrompts(Scenes(before))
    assert after.metadata["concepts"] == ["cat1", "dog1", "house_plant"] and after.metadata["license"] == "CC0"
    assert after.metadata["background_prompt"] == "in the garden" and "concepts" not in before.metadata
    assert after.layout is before.layout and after.source is before.source and after.key == before.key


def test_a_sample_without_concepts_stays_as_it_is():
    plain = Sample("b", caption="photo of a cat", layout=Layout.whole())
    assert list(ConceptPrompts(Scenes(plain))) == [plain]


def test_the_words_of_the_concepts_are_those_of_their_labels():
    dataset = ConceptPrompts(Scenes(scene(*PETS[:2]), Sample("b"), scene(PETS[2])))
    assert dataset.concepts == {"<cat1>": "cat", "<dog1>": "dog", "<house_plant>": "house plant"}
    assert tokens_of(dataset) == dataset.concepts


def test_a_folder_of_shards_says_its_concepts(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write(0, [scene(*PETS)])
    assert tokens_of(str(tmp_path)) == {"<cat1>": "cat", "<dog1>": "dog", "<house_plant>": "house plant"}
    (read,) = ConceptPrompts(Shards(tmp_path), repeat=False)
    assert read.caption == "<comp> photo of <cat1> cat, <dog1> dog and <house_plant> house plant in the garden"


def test_a_dataset_without_concepts_says_what_to_do():
    with pytest.raises(ValueError, match=r"no scene composed of concepts: .*layout_model.concepts=\{cat1: cat\}"):
        tokens_of(ConceptPrompts(Scenes(Sample("a"))))


def test_concepts_of_one_token_are_refused_unless_one_gets_another():
    both = Scenes(scene(("zoo/cat1", "cat")), scene(("home/cat1", "cat"), key="b"))
    with pytest.raises(ValueError, match=r"zoo/cat1 and home/cat1 would both be <cat1>; dataset.tokens=\{home/cat1: "):
        list(ConceptPrompts(both))
    with pytest.raises(ValueError, match="would both be <cat1>"):
        tokens_of(ConceptPrompts(both))
    assert tokens_of(ConceptPrompts(both, tokens={"home/cat1": "tom"})) == {"<cat1>": "cat", "<tom>": "cat"}


def test_concepts_that_are_not_one_for_each_region_are_refused():
    odd = scene(*PETS)
    odd = replace(odd, layout=odd.layout.keep(torch.tensor([0, 1])))
    with pytest.raises(ValueError, match="a: metadata.gen4gen.concepts must name the concepts of all 2 regions, got 3"):
        list(ConceptPrompts(Scenes(odd)))


@given(st.integers(0, 6), st.integers(0, 6))
def test_reading_from_anywhere_gives_what_iterating_gives(start, stop):
    dataset = ConceptPrompts(Scenes(*[scene(PETS[i % 3], key=str(i)) for i in range(6)]), backgrounds=["a", "b"])
    assert isinstance(dataset, RangedDataset) and len(dataset) == 6
    assert [x.caption for x in dataset.read(start, stop)] == [x.caption for x in dataset][start:stop]


def test_the_fingerprint_changes_with_all_that_prompts_depend_on():
    changes = [{}, {"composition": None}, {"repeat": False}, {"background": False}, {"backgrounds": ["x"]}]
    changes.append({"tokens": {"zoo/cat1": "tom"}})
    assert len({ConceptPrompts(Scenes(), **x).fingerprint for x in changes}) == len(changes)
    assert ConceptPrompts(Scenes(), composition="comp").fingerprint == ConceptPrompts(Scenes()).fingerprint


def test_a_mixture_with_other_photos_leaves_their_captions(config, tmp_path):
    photos = Scenes(Sample("c", caption="photo of a cat"))
    mixture = Mixture({"scenes": ConceptPrompts(Scenes(scene(*PETS))), "photos": photos}, until="all")
    assert sorted(x.caption[:14] for x in mixture) == ["<comp> photo o", "photo of a cat"]


def test_the_recipe_reads_the_concepts_out_of_the_scenes_and_other_photos_keep_their_captions(
    config, picture, tmp_path
):
    for name in ("scenes", "photos"):
        (tmp_path / name).mkdir()
    with ShardWriter(tmp_path / "scenes") as writer:
        writer.write(0, [scene(*PETS)])
    Path(tmp_path, "photos", "0.jpg").write_bytes(picture())
    Path(tmp_path, "photos", "0.txt").write_text("photo of a cat")
    cfg = config(
        *("train", "experiment=train/custom_diffusion", "output_dir=x"),
        f"dataset.datasets.scenes.dataset.directory={tmp_path / 'scenes'}",
        f"dataset.datasets.regularisation.directory={tmp_path / 'photos'}",
    )
    assert instantiate(cfg.layout_model.concepts, _convert_="all") == {x: y for x, y in zip(
        ("<cat1>", "<dog1>", "<house_plant>"), ("cat", "dog", "house plant"), strict=True)}  # fmt: skip
    assert cfg.layout_model.composition == "<comp>"
    captions = {x.caption for x in instantiate(cfg.dataset, _convert_="all")}
    assert len(captions) == 2 and "photo of a cat" in captions


def test_tokens_can_be_given_on_the_command_line(config):
    given = ("dataset.tokens={zoo/cat1: tom}", "dataset@dataset.dataset=shapes", "dataset.composition=all")
    dataset = instantiate(config("train", "dataset=concept_prompts", *given, "output_dir=x").dataset, _convert_="all")
    assert dataset.tokens == {"zoo/cat1": "tom"} and dataset.composition == "<all>"
