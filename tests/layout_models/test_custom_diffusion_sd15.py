"""Custom Diffusion on Stable Diffusion 1.5: what learns, what stays, and what captions may say."""

import logging
import re
from dataclasses import replace

import pytest
import torch

from scenewright.checkpoints import CheckpointError
from scenewright.layout import Layout
from scenewright.layout_models.checkpoint import load_trained
from scenewright.layout_models.concepts import concept_tokens
from scenewright.layout_models.custom_diffusion_sd15 import CustomDiffusionSD15
from scenewright.layout_models.training import trainable

CONCEPTS = {"cat1": "cat", "<dog1>": "dog"}
SIZE = {"height": 32, "width": 48}
PROMPT = "<comp> a <cat1> cat, a <dog1> dog"


@pytest.fixture(scope="module")
def build(tiny_sd15):
    def built(**settings):
        given = {"dtype": "float32", "num_inference_steps": 3, "gradient_checkpointing": False, "concepts": CONCEPTS}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return CustomDiffusionSD15(str(tiny_sd15), **{**given, "composition": "comp", **settings})

    return built


@pytest.fixture(scope="module")
def fresh(build):
    """One that no test changes."""
    return build()


@pytest.fixture
def personal(batch):
    """Two images of concepts, and one of no concept."""
    return replace(batch(), captions=[PROMPT, "a <cat1> cat", "a red cat"])


def frozen(model):
    return {name: x.clone() for name, x in model.state_dict().items() if name not in trainable(model)}


def fit(model, batch, steps=8, lr=0.01):
    optimizer = torch.optim.AdamW(trainable(model).values(), lr)
    losses = []
    for _ in range(steps):
        losses.append(model(batch))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def drawn(model, captions, seeds):
    return model.sample(captions, [Layout.empty()] * len(captions), seeds, **SIZE)


def test_captions_without_tokens_are_drawn_as_the_base_draws_them(build, tiny_sd15):
    from diffusers import StableDiffusionPipeline

    base = StableDiffusionPipeline.from_pretrained(tiny_sd15, safety_checker=None)
    base.set_progress_bar_config(disable=True)
    captions, generators = ["a red cat", "dog"], [torch.Generator().manual_seed(x) for x in (4, 5)]
    options = {"guidance_scale": 7.5, "num_inference_steps": 3, "negative_prompt": ["red"] * 2, **SIZE}
    theirs = base(captions, generator=generators, output_type="pt", **options).images
    ours = drawn(build(negative_prompt="red"), captions, [4, 5])
    assert (ours.float() - theirs * 255).abs().max() < 1


def test_a_fresh_model_predicts_what_one_without_concepts_does_exactly(build, fresh, batch):
    plain = build(concepts=None, composition=None)(batch())
    for model in (fresh, build(lora_rank=2)):
        assert torch.equal(model(batch()), plain) and model.untrained


def test_layouts_are_not_read(fresh, batch):
    model, some = fresh, batch()
    assert torch.equal(model(some), model(replace(some, layouts=[Layout.empty()] * 3)))


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_keys_and_values_and_words_learn_and_nothing_else(build, personal, lora_rank):
    model = build(lora_rank=lora_rank).train()
    names = {name for name in trainable(model) if not name.startswith("words.")}
    pattern = r"unet\..*\.attn2\.to_[kv]\." + ("weight" if lora_rank is None else r"lora_[AB]\.default\.weight")
    assert names and all(re.fullmatch(pattern, x) for x in names)
    blocks = sum(x.endswith("attn2") for x, _ in model.unet.named_modules())
    assert len(names) == blocks * (2 if lora_rank is None else 4)
    assert set(trainable(model)) - names == {"words.<cat1>", "words.<dog1>", "words.<comp>"}
    before, learnt = frozen(model), {name: x.detach().clone() for name, x in trainable(model).items()}
    fit(model, personal, steps=2)
    after = model.state_dict()
    assert all(torch.equal(x, after[name]) for name, x in before.items())
    assert [name for name, x in learnt.items() if torch.equal(x, after[name])] == []
    assert all(x.grad is None for name, x in model.named_parameters() if not x.requires_grad)


def test_a_word_that_no_caption_says_stays(build, batch):
    model = build().train()
    model(replace(batch(), captions=["a <cat1> cat"] * 3)).backward()
    assert model.words["<cat1>"].grad.abs().sum() > 0
    assert not model.words["<dog1>"].grad.any() and not model.words["<comp>"].grad.any()


def test_the_loss_of_personal_images_falls(build, personal):
    losses = fit(build().train(), personal)
    assert losses[-1] < 0.97 * losses[0]


def test_an_embedding_begins_as_the_mean_of_its_class_words(build):
    model = build(concepts={"a": "cat", "b": "red cat"}, composition=None)
    table = model.text_encoder.get_input_embeddings().weight
    cat, red = (table[model.tokenizer(x, add_special_tokens=False).input_ids[0]] for x in ("cat", "red"))
    assert torch.equal(model.words["<a>"], cat) and torch.allclose(model.words["<b>"], (cat + red) / 2)


def test_a_token_that_begins_as_its_class_word_reads_as_that(fresh):
    model = fresh
    one, other = model._read(["a <cat1> dog"]), model._read(["a cat dog"])
    assert torch.equal(one, other)


def test_weights_are_found_by_their_tokens_in_whatever_order(build, fresh, personal):
    trained = build().train()
    fit(trained, personal, steps=2)
    weights = {name: x.detach().clone() for name, x in trainable(trained).items()}
    other = build(concepts={"dog1": "red", "cat1": "dog"})
    load_trained(other, weights)
    assert torch.equal(drawn(other, [PROMPT], [0]), drawn(trained, [PROMPT], [0]))
    assert not torch.equal(drawn(fresh, [PROMPT], [0]), drawn(trained, [PROMPT], [0]))
    with pytest.raises(CheckpointError, match=r"1 are missing \(words.<mug>\)"):
        load_trained(build(concepts={**CONCEPTS, "mug": "red"}), weights)


def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(fresh):
    model, captions = fresh, [PROMPT, "a <dog1> dog", "a"]
    together = drawn(model, captions, [4, 5, 6])
    for i in range(3):
        alone = drawn(model, captions[i : i + 1], [4 + i])
        assert (together[i].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(drawn(model, captions[:1], [9])[0], together[0])


def test_images_without_a_token_count_as_much_as_is_asked(build, fresh, personal):
    fields = ("images", "captions", "layouts", "frames", "seeds", "keys", "text_features")
    own, prior = (
        fresh(replace(personal, **{name: getattr(personal, name)[some] for name in fields}))
        for some in (slice(0, 2), slice(2, 3))
    )
    assert torch.allclose(fresh(personal), (2 * own + prior) / 3)
    assert torch.allclose(build(prior_weight=0.25)(personal), (2 * own + 0.25 * prior) / 3)


def test_a_dropped_caption_is_the_empty_one(build, fresh, personal):
    dropped = build(caption_drop=1.0)(personal)
    assert torch.equal(dropped, fresh(replace(personal, captions=[""] * 3)))


def test_an_unknown_token_is_refused_with_those_that_are_known(fresh, personal):
    model = fresh
    with pytest.raises(ValueError, match=r"<mug> is no concept .* knows <cat1>, <dog1>, <comp>; .*concepts=\{mug: CLA"):
        drawn(model, ["a cat", "a <mug> mug"], [0, 1])
    with pytest.raises(ValueError, match="<Cat1> is no concept"):
        model(replace(personal, captions=["a <Cat1>", "", ""]))
    assert drawn(model, ["a < b and c > d"], [0]).shape == (1, 3, 32, 48)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"concepts": {"my cat": "cat"}}, "small letters, digits"),
        ({"concepts": {"Cat": "cat"}}, "such as <cat1>, got 'Cat'"),
        ({"concepts": {"cat": "cat", "<cat>": "cat"}}, "<cat> twice"),
        ({"concepts": {"comp": "cat"}}, "<comp> twice"),
        ({"concepts": {"cat": " "}}, "needs a class word"),
        ({"dtype": "int8"}, "int8"),
    ],
)
def test_what_cannot_be_is_refused(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_prompt_that_clip_cuts_is_warned_of_once(fresh, personal, caplog):
    model, long = fresh, "<cat1> cat " * 40
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            model(replace(personal, captions=[long, "a", PROMPT]))
    assert [x.message for x in caplog.records] == [
        f"a caption has 82 tokens, of which CLIP reads the first 77: {long!r}"
    ]


def test_half_precision_learns_in_full_and_saves_memory(build, personal):
    model = build(dtype="bfloat16", gradient_checkpointing=True).train()
    assert {x.dtype for x in trainable(model).values()} == {torch.float32}
    assert model.unet.conv_in.weight.dtype == model.text_encoder.dtype == torch.bfloat16
    fit(model, personal, steps=2)
    assert drawn(model, [PROMPT], [0]).dtype == torch.uint8


def test_latents_are_kept_and_features_of_captions_are_not(build, fresh, personal, tmp_path):
    model = build(cache=str(tmp_path)).train()
    first = model(personal)
    kept = sorted(x for x in tmp_path.rglob("*") if x.is_file())
    assert kept and torch.equal(model(personal), first) and torch.allclose(fresh(personal), first, atol=1e-3)
    with torch.no_grad():
        model.words["<cat1>"] *= -1  # a constant would be lost in the norms
    assert not torch.equal(model(personal), first)
    assert sorted(x for x in tmp_path.rglob("*") if x.is_file()) == kept


def test_sizes_and_counts_are_checked(fresh):
    model = fresh
    with pytest.raises(ValueError, match="multiples of 8, got 33"):
        model.sample(["a"], [Layout.empty()], [0], height=33, width=48)
    with pytest.raises(ValueError, match="as many, got 1, 0 and 1"):
        model.sample(["a"], [], [0], **SIZE)
    assert model.sample([], [], [], **SIZE).shape == (0, 3, 32, 48)


def test_concepts_can_be_named_on_the_command_line(config):
    given = ("layout_model.concepts={cat1: cat, house_plant: house plant}", "layout_model.composition=comp")
    cfg = config("generate", "layout_model=custom_diffusion_sd15", "output_dir=x", *given)
    found = concept_tokens(cfg.layout_model.concepts, cfg.layout_model.composition)
    assert found == {"<cat1>": "cat", "<house_plant>": "house plant", "<comp>": "composition"}
