"""Custom Diffusion in small: two drawn things get names of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch, EncodedImage, Layout, Sample
from scenewright.layout_models.checkpoint import load_trained
from scenewright.layout_models.tiny.words import WordTokenizer
from scenewright.layout_models.tiny_caption_only import TinyCaptionOnly
from scenewright.layout_models.tiny_custom_diffusion import TinyCustomDiffusion
from scenewright.layout_models.training import trainable

CONCEPTS = {"square1": "square", "circle1": "circle"}
#: What a scene shows, and what it is called instead.
NAMED = {"red square": "<square1> square", "blue circle": "<circle1> circle"}
COLOURS = {"red": (215, 20, 20), "blue": (40, 80, 220)}
BACKGROUNDS = {"white": 250, "grey": 140, "black": 15}


def scene(number):
    """A red square or a blue circle somewhere on a plain background."""
    random = np.random.default_rng(number)
    thing, background = list(NAMED)[number % 2], list(BACKGROUNDS)[number % 3]
    (x, y), radius = random.uniform(11, 21, 2), random.uniform(6, 10)
    down, right = torch.meshgrid(torch.arange(32) + 0.5 - y, torch.arange(32) + 0.5 - x, indexing="ij")
    inside = torch.maximum(down.abs(), right.abs()) if "square" in thing else torch.hypot(down, right)
    colour = torch.tensor(COLOURS[thing.split()[0]], dtype=torch.uint8)[:, None, None]
    image = torch.where(inside < radius, colour, torch.tensor(BACKGROUNDS[background], dtype=torch.uint8))
    box = torch.tensor([[x - radius, y - radius, x + radius, y + radius]]).float() / 32
    caption = f"A large {thing} on a plain {background} background."
    return Sample(str(number), EncodedImage.from_image(image), caption, layout=Layout(box, [thing]))


@pytest.fixture(scope="module")
def scenes():
    """Scenes of two things, and others."""
    return [scene(i) for i in range(36)], list(Shapes(36, 32, 32, difficulty="easy", turn=0.0))


def called(samples, names=NAMED):
    """The scenes, their things called otherwise."""
    words = [x.layout.labels[0] for x in samples]
    return [replace(x, caption=x.caption.replace(w, names[w])) for x, w in zip(samples, words, strict=True)]


def batch(samples, seed=0):
    return Batch.collate(samples, seeds=[seed + i for i in range(len(samples))])


@pytest.fixture(scope="module")
def trained(scenes):
    """Trained for some seconds on all but the last twelve of the scenes, with others to keep what it knew."""
    own, others = scenes
    named = called(own[:-12])
    model = TinyCustomDiffusion(CONCEPTS).train()
    optimizer = torch.optim.AdamW(trainable(model).values(), 1e-3, weight_decay=0)
    for step in range(20):
        chosen = torch.randperm(len(named), generator=torch.Generator().manual_seed(step))[:6].tolist()
        model(batch([named[i] for i in chosen] + [others[i] for i in chosen[:2]], 100 * step)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def loss(model, samples):
    """The mean over several draws of noise."""
    return float(torch.stack([model(batch(samples, 5000 + 100 * i)) for i in range(8)]).mean())


def drawn(model, captions, seeds):
    return model.sample(captions, [Layout.empty()] * len(captions), seeds, height=32, width=32)


def test_tokens_of_held_out_scenes_come_to_say_what_plain_words_say(scenes, trained):
    fresh, held_out = TinyCustomDiffusion(CONCEPTS).eval(), scenes[0][-12:]
    before, after = (loss(model, called(held_out)) for model in (fresh, trained))
    best = loss(fresh, held_out)
    assert best < before and after < before - (before - best) / 4
    by_class = called(held_out, {words: words.split()[1] for words in NAMED})
    assert after < loss(trained, by_class) - (before - best) / 16, "it is the token that says the colour"


def test_what_it_knew_it_still_knows(scenes, trained):
    others = scenes[1][-8:]
    assert loss(trained, others) < 1.1 * loss(TinyCustomDiffusion(CONCEPTS).eval(), others)


def test_keys_and_values_and_words_learn_and_nothing_else(scenes, trained):
    fresh = TinyCustomDiffusion(CONCEPTS)
    names = {x for x in trainable(fresh) if not x.startswith("words.")}
    assert names and all(x.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")) for x in names)
    assert set(trainable(fresh)) - names == {"words.<square1>", "words.<circle1>"}
    before, after = fresh.state_dict(), trained.state_dict()
    assert {x for x in before if not torch.equal(before[x], after[x])} == set(trainable(fresh))
    fresh(batch(called(scenes[0][:4]))).backward()
    assert {name for name, x in fresh.named_parameters() if x.grad is not None} == set(trainable(fresh))


def test_a_fresh_one_draws_and_predicts_what_the_twin_does(scenes):
    fresh, twin = TinyCustomDiffusion(CONCEPTS, num_inference_steps=2), TinyCaptionOnly(
        num_inference_steps=2, caption_drop=0.0
    )  # fmt: skip
    assert torch.equal(drawn(fresh, ["a red square"], [0]), drawn(twin, ["a red square"], [0]))
    assert torch.equal(fresh(batch(scenes[1][:4])), twin(batch(scenes[1][:4])))
    assert torch.equal(drawn(fresh, ["a <square1>"], [0]), drawn(twin, ["a square"], [0])), (
        "it begins as its class word"
    )
    assert fresh.untrained


def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(trained):
    captions = ["a <square1> square", "a <circle1> circle", "a red circle"]
    together = drawn(trained, captions, [4, 5, 6])
    for i in range(3):
        alone = drawn(trained, captions[i : i + 1], [4 + i])
        assert (together[i].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(drawn(trained, captions[:1], [9])[0], together[0])


def test_weights_are_found_by_their_tokens_in_whatever_order(trained):
    other = TinyCustomDiffusion(dict(reversed(CONCEPTS.items()))).eval()
    load_trained(other, {name: x.detach() for name, x in trainable(trained).items()})
    assert torch.equal(drawn(other, ["a <square1> square"], [0]), drawn(trained, ["a <square1> square"], [0]))


def test_images_without_a_token_count_as_much_as_is_asked(scenes):
    own, others = called(scenes[0][:2]), scenes[1][:2]
    alone = [TinyCustomDiffusion(CONCEPTS)(Batch.collate(x, seeds=s)) for x, s in ((own, [0, 1]), (others, [2, 3]))]
    together = TinyCustomDiffusion(CONCEPTS, prior_weight=0.5)(batch([*own, *others]))
    assert torch.allclose(together, (alone[0] + 0.5 * alone[1]) / 2)


def test_the_composition_has_a_token_of_its_own(scenes):
    model = TinyCustomDiffusion(CONCEPTS, composition="comp")
    model(batch([replace(x, caption=f"<comp> photo of {x.caption}") for x in called(scenes[0][:4])])).backward()
    assert set(model.words) == {"<square1>", "<circle1>", "<comp>"} and model.words["<comp>"].grad.any()


def test_an_unknown_token_is_refused(trained):
    with pytest.raises(ValueError, match="<cat1> is no concept of this model, which knows <square1>, <circle1>;"):
        drawn(trained, ["a <cat1>"], [0])


def test_added_words_come_after_all_others_whose_ids_stay():
    plain, more = WordTokenizer(), WordTokenizer(added=["<star>", "<star-1>"])
    assert len(more) == len(plain) + 2
    text = "A red-ish star, two-tone; <star> <star-1> <stars>"
    assert more.tokens(text)[:3] == plain.tokens(text)[:3] and more.unknown not in more.tokens("<star><star-1>")
    assert more.tokens("<star> <star-1>") == [len(plain), len(plain) + 1]
    assert plain.tokens("<star>") == plain.tokens("star") == more.tokens("star") != more.tokens("<star>")
