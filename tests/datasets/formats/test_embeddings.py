"""CLIP's features of texts, through the real classes with random weights."""

import json

import pytest
import torch

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.datasets.formats.embeddings import CLIPText, Embeddings, from_base64, to_base64

TEXTS = ["a dog", "", "a photo of a red cup on a table", "2 cats", "dog"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A CLIP model of both towers, as it is published, and its tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(i) for i in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    tokenizer.save_pretrained(folder)
    text = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    text |= {
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = CLIPConfig(text_config=text, vision_config=vision | {"image_size": 8, "patch_size": 4}, projection_dim=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    return folder


def test_a_text_is_the_state_before_the_projection(checkpoint):
    """What the whole model makes of it, run as it is, text by text."""
    from transformers import CLIPModel, CLIPTokenizer

    found = CLIPText(str(checkpoint)).embed(TEXTS)
    network, tokenizer = CLIPModel.from_pretrained(checkpoint), CLIPTokenizer.from_pretrained(checkpoint)
    assert found.dtype == torch.float32 and found.shape == (len(TEXTS), 24)
    for text, vector in zip(TEXTS, found, strict=True):
        tokens = tokenizer([text], truncation=True, max_length=16, return_tensors="pt")
        with torch.inference_mode():
            whole = network(**tokens, pixel_values=torch.ones(1, 3, 8, 8))
            last = network.text_model(**tokens).last_hidden_state[0, -1]
            projected = torch.nn.functional.normalize(network.text_projection(vector), dim=0)
        torch.testing.assert_close(vector, last, atol=1e-5, rtol=0)
        torch.testing.assert_close(projected, whole.text_embeds[0], atol=1e-5, rtol=0)


def test_a_text_does_not_depend_on_its_batch(checkpoint):
    together = CLIPText(str(checkpoint)).embed(TEXTS)
    for size in (1, 2):
        torch.testing.assert_close(CLIPText(str(checkpoint), batch_size=size).embed(TEXTS), together, atol=1e-5, rtol=0)
    assert CLIPText(str(checkpoint)).embed([]).shape == (0, 24)


def test_long_texts_are_cut_and_counted_and_still_end(checkpoint, caplog):
    embedder = CLIPText(str(checkpoint))
    # fifteen letters and both marks are one token too many; cut, the last letter is no word's end
    long, longer, fits = embedder.embed(["a" * 15, "a" * 40, "a" * 14])
    assert embedder.truncated == 2 and not caplog.records
    torch.testing.assert_close(long, longer, atol=1e-5, rtol=0)
    assert (long - fits).abs().max() > 1e-3


def test_no_text_is_encoded_twice():
    seen = []

    class Counting:
        def embed(self, texts):
            seen.extend(texts)
            return torch.tensor([[len(x), hash(x) % 97] for x in texts], dtype=torch.float32)

    embeddings = Embeddings(Counting())
    first = embeddings.of(["dog", "cat", "dog", "\udc80", "'; DROP TABLE known"])
    second = embeddings.of(["cat", "bird", "\udc80", "dog"])
    assert seen == ["dog", "cat", "\udc80", "'; DROP TABLE known", "bird"]
    assert first["dog"] == second["dog"] and from_base64(first["dog"]).tolist()[0] == 3.0
    assert embeddings.of([]) == {}


def test_weights_that_are_missing_or_wrong_are_said(tmp_path):
    with pytest.raises(MissingWeights, match="config.json, model.safetensors, tokenizer.json"):
        CLIPText(str(tmp_path)).embed(["a"])
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        CLIPText(str(tmp_path)).embed(["a"])


def test_another_models_weights_are_no_text_tower(checkpoint, tmp_path):
    from safetensors.torch import save_file

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((checkpoint / name).read_bytes())
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="another network's checkpoint"):
        CLIPText(str(tmp_path)).embed(["a"])


@pytest.mark.golden
def test_vectors_are_written_as_published(golden):
    about, tensors = golden("codecs/embedding_base64")
    pairs = [*zip(about["strings"], tensors["vectors"], strict=True), (about["short_string"], tensors["short"])]
    for text, vector in pairs:
        assert to_base64(vector) == text and torch.equal(from_base64(text), vector)
    assert from_base64("").shape == (0,)
