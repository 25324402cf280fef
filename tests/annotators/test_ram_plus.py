"""RAM++, loaded from a small file of the published form, and its open vocabulary with a small CLIP."""

import runpy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from scenewright.annotators.recognition.prompts import sentences, text_features
from scenewright.annotators.recognition.weights import read_network
from scenewright.annotators.taggers.ram_plus import FILE, RAMPlus
from scenewright.checkpoints import Checkpoint, CheckpointError, MissingWeights, checkpoints_of
from scenewright.layout import decode
from scenewright.protocols import Tagger

HELP = runpy.run_path(str(Path(__file__).with_name("published_taggers.py")))
NAMES = ["ant", "bee", "cow", "dog", "eel", "fox"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("ram_plus")
    HELP["write"](path / FILE, HELP["published"]("RAM++"))
    (path / "ram_tag_list.txt").write_text("\n".join(NAMES))
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A CLIP text tower whose features are as wide as those in the file."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("clip")
    words = sorted({word for name in [*NAMES, "orange juice"] for said in sentences(name) for word in said.split()})
    words = [word.strip(".") for word in words]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(["<pad>", "<unk>", "<end>", ".", *words]))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<end>", model_max_length=77
    )
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        projection_dim=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=2,
        bos_token_id=1,
        pad_token_id=0,
        initializer_factor=20.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPTextModelWithProjection(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def images(picture):
    return [decode(picture("PNG", size=size, seed=i)) for i, size in enumerate([(90, 40), (33, 70), (64, 64)])]


def test_no_image_has_no_tags(folder):
    assert RAMPlus(str(folder)).tag([]) == []
    assert isinstance(RAMPlus(), Tagger)


def test_descriptions_are_weighed_image_by_image_and_class_by_class(folder):
    tensors = HELP["published"]("RAM++")
    network = read_network(folder / FILE, "RAM++")
    tokens = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(2))
    described = tensors["label_embed"].view(6, 51, 16)
    for b in range(3):
        image = tokens[b, 0] / tokens[b, 0].norm()
        for c in range(6):
            weights = (described[c] @ image * tensors["reweight_scale"].exp()).softmax(0)
            plain = (weights[:, None] * described[c]).sum(0)
            torch.testing.assert_close(network.queries.features(tokens)[b, c], plain, atol=1e-5, rtol=0)


def test_an_images_tags_do_not_depend_on_its_batch(folder, images):
    tagger = RAMPlus(str(folder), thresholds=0.5, batch_size=2)
    together = tagger.tag(images)
    assert together == [tagger.tag([x])[0] for x in images] == tagger.tag(images)
    assert (
        RAMPlus(str(folder), thresholds=0.0, deleted=["cow"]).tag(images) == [["ant", "bee", "dog", "eel", "fox"]] * 3
    )
    assert RAMPlus(str(folder), thresholds=1.0).tag(images) == [[]] * 3
    assert len(RAMPlus(str(folder), dtype="bfloat16").tag(images)) == 3


def test_a_file_that_is_not_51_descriptions_per_class_is_refused(tmp_path, images):
    HELP["write"](tmp_path / FILE, HELP["published"]("RAM++", classes=5, descriptions=50))
    with pytest.raises(CheckpointError, match="must have 51 descriptions of each class, got 250 in all"):
        RAMPlus(str(tmp_path)).tag(images)


def test_features_of_ones_own_tags_are_the_mean_of_their_sentences(clip):
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    vocabulary = {"dog": sentences("dog"), "orange juice": ["the orange juice", "This is my juice."]}
    found = text_features(vocabulary, Checkpoint(str(clip)), 16, torch.device("cpu"), batch_size=7)
    model, tokenizer = CLIPTextModelWithProjection.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    for feature, said in zip(found, vocabulary.values(), strict=True):
        each = [model(**tokenizer(text, return_tensors="pt")).text_embeds[0] for text in said]
        mean = torch.stack([normalize(x, dim=0) for x in each]).mean(0)
        torch.testing.assert_close(feature, normalize(mean, dim=0), atol=1e-4, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.01


def test_tags_of_ones_own_take_the_place_of_the_classes(folder, clip, images):
    given = dict(text_checkpoint=str(clip), text_revision="main")
    assert RAMPlus(str(folder), tags=["orange juice", "dog"], thresholds=0.0, **given).tag(images) == (
        [["orange juice", "dog"]] * 3
    )
    assert RAMPlus(str(folder), tags=["dog", "bee"], thresholds=0.0, deleted=["dog"], **given).tag(images) == (
        [["bee"]] * 3
    )
    tagger = RAMPlus(str(folder), tags={"dog": ["my dog"], "bee": ["the bee", "toy bee"]}, batch_size=2, **given)
    together = tagger.tag(images)
    assert together == [tagger.tag([x])[0] for x in images]
    assert tagger._tags.thresholds.tolist() == [0.5, 0.5]
    assert len(list(checkpoints_of(tagger))) == 2 and len(list(checkpoints_of(RAMPlus(str(folder))))) == 1


def test_a_class_by_its_own_single_feature_scores_as_that_feature(folder):
    """One description per class leaves nothing to weigh: fixed queries must equal the projected feature."""
    queries = read_network(folder / FILE, "RAM++").queries
    feature = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    plain = torch.relu(feature @ queries.wordvec_proj.weight.T + queries.wordvec_proj.bias)
    torch.testing.assert_close(queries.fixed(feature)(torch.zeros(2, 3, 16))[0], plain)


def test_a_clip_of_another_width_is_refused(folder, clip, tmp_path, images):
    HELP["write"](tmp_path / FILE, HELP["published"]("RAM++", text_width=12))
    with pytest.raises(CheckpointError, match="gives text features of 16 numbers; 12 are needed"):
        RAMPlus(str(tmp_path), tags=["dog"], text_checkpoint=str(clip)).tag(images)
    with pytest.raises(MissingWeights, match="openai/clip-vit-base-patch16"):
        RAMPlus(str(folder), tags=["dog"]).tag(images)
