"""What RAT-Diffusion is told of a text: CLIP's feature, and the stand-in without weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenewright.checkpoints import CheckpointError, checkpoints_of
from scenewright.layout_models.rat_dit.text_features import CLIPText, HashedWords, TextEncoder

CPU = torch.device("cpu")
texts = st.lists(st.sampled_from("red blue round square dog cat big".split()), max_size=6).map(" ".join)


@pytest.fixture(scope="module")
def make_clip(tiny_clip):
    """``make_clip(folder, **settings)``: a small CLIP that says 16 values in all places, as published ones do."""

    def made(folder: Path, **settings) -> CLIPText:
        path = Path(tiny_clip(folder, **settings), "config.json")
        config = json.loads(path.read_text())
        config["text_config"]["projection_dim"] = config["projection_dim"]
        path.write_text(json.dumps(config))
        return CLIPText(str(folder))

    return made


@pytest.fixture(scope="module")
def clip(make_clip, tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip"))


def test_nothing_is_loaded_before_a_text_is_read():
    plugin = CLIPText("no/such-clip")
    assert isinstance(plugin, TextEncoder) and isinstance(HashedWords(), TextEncoder)
    assert [x.name for x in checkpoints_of(plugin)] == ["no/such-clip"]
    with pytest.raises(CheckpointError, match="no/such-clip"):
        plugin.encode(["a"], CPU)


def test_clips_feature_is_projected_and_not_normalised(clip):
    from transformers import CLIPModel, CLIPTokenizer

    said = ["a red dog", "", "a cat"]
    network, tokenizer = CLIPModel.from_pretrained(clip.checkpoint), CLIPTokenizer.from_pretrained(clip.checkpoint)
    found = clip.encode(said, CPU)
    with torch.no_grad():
        for text, row in zip(said, found, strict=True):  # each alone and without padding
            inputs = tokenizer(text, return_tensors="pt")
            pooled = network.text_model(**inputs).pooler_output
            torch.testing.assert_close(row, network.text_projection(pooled)[0], atol=1e-5, rtol=1e-5)
    assert found.dtype == torch.float32 and not torch.allclose(found.norm(dim=1), torch.ones(3), atol=0.1)


def test_no_texts_have_no_features_and_long_ones_are_cut(clip):
    assert clip.encode([], CPU).shape == (0, 16)
    long = " ".join(["a red dog"] * 40)
    torch.testing.assert_close(*clip.encode([long, long + " cat"], CPU))


def test_a_fingerprint_is_of_the_weights(clip, make_clip, tmp_path):
    same = CLIPText(clip.checkpoint)
    other = make_clip(tmp_path / "other", words=("a", "red"))
    assert clip.fingerprint() == same.fingerprint() != other.fingerprint()


@given(st.lists(texts, max_size=4))
def test_a_hashed_feature_depends_on_its_text_alone(said):
    together = HashedWords().encode(said, CPU)
    assert together.shape == (len(said), 512) and together.dtype == torch.float32
    for text, row in zip(said, together, strict=True):
        assert torch.equal(row, HashedWords().encode([text], CPU)[0])


def test_hashed_features_are_the_same_in_every_process():
    program = (
        "import torch; from scenewright.layout_models.rat_dit.text_features import HashedWords; "
        "print(HashedWords().encode(['a red dog'], torch.device('cpu'))[0].tolist())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(HashedWords().encode(["a red dog"], CPU)[0].tolist())


def test_with_single_words_their_order_does_not_count_and_in_runs_neighbours_do():
    pair = ["a red dog and a blue cat", "a blue dog and a red cat"]
    words, runs = (HashedWords(longest=x).encode(pair, CPU) for x in (1, 2))
    assert torch.equal(words[0], words[1]) and not torch.equal(runs[0], runs[1])
    swapped = HashedWords(longest=2).encode(["red dog", "dog red"], CPU)
    assert not torch.equal(swapped[0], swapped[1])


def test_case_and_punctuation_do_not_count_and_no_words_are_zero():
    found = HashedWords().encode(["A red, round dog!", "a red round dog", " ?! ", ""], CPU)
    assert torch.equal(found[0], found[1]) and not found[2:].any()


def test_texts_that_share_words_are_alike_and_values_are_about_one():
    found = HashedWords().encode(["a red dog on grass", "a red dog on sand", "seven yellow boats"], CPU)
    near, far = (torch.cosine_similarity(found[0], found[i], 0) for i in (1, 2))
    assert near > 0.6 and abs(far) < 0.2
    assert found.std(1).tolist() == pytest.approx([1, 1, 1], abs=0.2)


def test_another_seed_has_other_vectors_and_another_fingerprint():
    one, other = HashedWords(), HashedWords(seed=1)
    assert not torch.equal(one.encode(["dog"], CPU), other.encode(["dog"], CPU))
    assert one.fingerprint() != other.fingerprint() and HashedWords(width=100).encode(["dog"], CPU).shape == (1, 100)


@pytest.mark.parametrize("settings", [{"width": 0}, {"longest": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match="at least 1"):
        HashedWords(**settings)
