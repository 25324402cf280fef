"""InstanceDiffusion on Stable Diffusion 1.5: conditions of any mixture, exact training, images of their own seeds."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import mse_loss

from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Batch, Frame, Layout, RunLengths
from scenewright.layout_models.instance_diffusion import sampler
from scenewright.layout_models.instance_diffusion.attach import adapter_parameters, is_adapter
from scenewright.layout_models.instance_diffusion.guided import Guided, of_each, together
from scenewright.layout_models.instance_diffusion.unifusion import Instances, to_published
from scenewright.layout_models.instance_diffusion_sd15 import InstanceDiffusionSD15
from scenewright.layout_models.objective import draw
from scenewright.layout_models.rich_context.components import StableDiffusion
from scenewright.layout_models.training import trainable

SMALL = {"mid_dim": 8, "resolution": 64, "depths": (1, 1, 1, 1), "dims": (4, 4, 4, 8)}
NO_DROPS = {"type_drop": 0.0, "point_only": 0.0, "no_scribble": 0.0, "layout_drop": 0.0, "caption_drop": 0.0}


@pytest.fixture(scope="module")
def parts(tiny_sd15):
    """The base, opened once."""
    return StableDiffusion(str(tiny_sd15), towers=1).load(torch.float32)


@pytest.fixture
def build(tiny_sd15, parts, monkeypatch):
    load = StableDiffusion.load

    def copied(self, dtype):
        return deepcopy(parts) if dtype == torch.float32 else load(self, dtype)

    monkeypatch.setattr(StableDiffusion, "load", copied)

    def built(opened=False, **settings):
        torch.manual_seed(3)
        given = {
            "base": str(tiny_sd15),
            "weights": None,
            "dtype": "float32",
            "unifusion": SMALL,
            "num_inference_steps": 2,
            "gradient_checkpointing": False,
        }
        model = InstanceDiffusionSD15(**{**given, **settings})
        if opened:
            random = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in trainable(model).values():
                    parameter += 0.3 * torch.randn(parameter.shape, generator=random)
        return model

    return built


@pytest.fixture(scope="module")
def stock(tiny_sd15):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(tiny_sd15, safety_checker=None)


def masks(*corners: int) -> list[RunLengths]:
    """Squares with these corners on a picture of 24 by 36, an empty mask for -1."""
    planes = torch.zeros(len(corners), 24, 36, dtype=torch.bool)
    for plane, corner in zip(planes, corners, strict=True):
        if corner >= 0:
            plane[corner : corner + 8, corner : corner + 12] = True
    return RunLengths.encode(planes)


@pytest.fixture
def mixed(batch):
    """Points and scribbles; masks of which one is empty; one instance with a mask; nothing."""
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 1.0, 0.9]])
    said = {"labels": ["cat", "dog"], "captions": ["a red cat", ""]}
    layouts = [
        Layout(
            boxes,
            **said,
            points=torch.tensor([[0.25, 0.125], [torch.nan, torch.nan]]),
            scribbles=[torch.zeros(0, 2), torch.tensor([[0.5, 0.5], [0.75, 0.625]])],
        ),
        Layout(boxes, **said, masks=masks(3, -1)),
        Layout(boxes[:1], ["red"], masks=masks(5)),
        Layout.empty(),
    ]
    images = batch().images
    return Batch(
        images=torch.cat([images, images[:1]]),
        captions=["a red cat", "dog", "a", "cat"],
        layouts=layouts,
        frames=[Frame((32, 48), (0, 0))] * 4,
        seeds=[10, 11, 12, 13],
    )


def part(batch: Batch, *numbers: int) -> Batch:
    return Batch(
        images=batch.images[list(numbers)],
        **{name: [getattr(batch, name)[i] for i in numbers] for name in ("captions", "layouts", "frames", "seeds")},
    )


def drawn(model, batch: Batch) -> torch.Tensor:
    return model.sample(batch.captions, batch.layouts, batch.seeds, height=32, width=48).int()


@pytest.fixture
def read(monkeypatch):
    """What the tokenizer was given, in order."""
    found: list[Instances] = []

    def watched(model):
        model.unet.position_net.register_forward_pre_hook(
            lambda _, inputs: found.append(inputs[0]) if inputs and isinstance(inputs[0], Instances) else None
        )
        return found

    return watched


# training


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("caption_drop", [0.0, 1.0])
@torch.no_grad()
def test_a_new_model_predicts_what_the_base_does(packed, caption_drop, build, stock, mixed):
    from diffusers import DDPMScheduler

    draws = draw(mixed.seeds, (4, 4, 6), 1000, caption_drop=caption_drop)
    captions = [""] * 4 if caption_drop else mixed.captions
    scheduler = DDPMScheduler.from_config(stock.scheduler.config)
    known = stock.vae.encode(mixed.images / 127.5 - 1).latent_dist
    latents = (known.mean + known.std * draws.posterior) * stock.vae.config.scaling_factor
    features, _ = stock.encode_prompt(captions, "cpu", 1, False)
    noisy = scheduler.add_noise(latents, draws.noise, draws.timesteps)
    wanted = float(mse_loss(stock.unet(noisy, draws.timesteps, features).sample, draws.noise))
    model = build(packed=packed, caption_drop=caption_drop)
    assert model.untrained
    assert float(model(mixed)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_training_lowers_the_loss_and_moves_only_the_adapter(packed, build, mixed):
    model = build(packed=packed, gradient_checkpointing=True)
    before = {name: x.clone() for name, x in model.named_parameters()}
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model.train()(mixed)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.99 * losses[0]
    moved = {name for name, x in model.named_parameters() if not torch.equal(x, before[name])}
    assert moved == set(trainable(model)) and all(is_adapter(name.removeprefix("unet.")) for name in moved)
    assert not model.vae.training and not model.text_encoder.training and model.unet.training


@pytest.mark.parametrize("packed", [True, False])
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_mean_of_its_samples_losses(packed, build, mixed):
    crowded = Layout(boxes=torch.rand(40, 2).repeat(1, 2) / 2 + torch.tensor([0, 0, 0.2, 0.2]), labels=["dog"] * 40)
    mixed = replace(mixed, layouts=[*mixed.layouts[:3], crowded])
    model = build(opened=True, packed=packed)
    apart = [float(model(part(mixed, i))) for i in range(4)]
    assert float(model(mixed)) == pytest.approx(sum(apart) / 4, rel=1e-4)
    again = [float(model(part(mixed, i))) for i in (3, 2, 1, 0)][::-1]
    assert again == apart


@torch.no_grad()
def test_forty_masks_are_too_many_but_all_boxes_are_drawn(build, mixed):
    boxes = torch.rand(40, 2).repeat(1, 2) / 2 + torch.tensor([0, 0, 0.2, 0.2])
    crowded = Layout(boxes, ["dog"] * 40, masks=masks(*[i % 14 for i in range(40)]))
    model = build(opened=True, mis=0.0, **NO_DROPS)
    with pytest.warns(UserWarning, match="reads 30 masks, an image has 40"):
        assert model(replace(part(mixed, 0), layouts=[crowded])).isfinite()
    with pytest.warns(UserWarning, match="reads 30 masks"):
        drawn(model, replace(part(mixed, 0), layouts=[crowded]))


@torch.no_grad()
def test_a_batch_without_any_instance_trains_and_draws(build, mixed):
    nothing = part(mixed, 3, 3)
    for packed in (True, False):
        model = build(opened=True, packed=packed)
        assert model(nothing).isfinite() and drawn(model, nothing).shape == (2, 3, 32, 48)


def test_scribbles_are_drawn_from_masks_while_training_by_the_images_seed(build, mixed, read):
    model = build(**NO_DROPS)
    found = read(model)
    with torch.no_grad():
        model(mixed), model(part(mixed, 2, 1))
    (all_four, two) = found
    torch.testing.assert_close(two.scribbles[0], all_four.scribbles[2])
    x, y = all_four.scribbles[2, 0].unflatten(0, (20, 2)).unbind(1)
    assert (x * 36 >= 5 - 1e-4).all() and (x * 36 < 17).all() and (y * 24 >= 5 - 1e-4).all() and (y * 24 < 13).all()
    assert not all_four.scribbles[1, 1].any() and not all_four.scribbles[3].any()
    other = replace(part(mixed, 2), seeds=[99])
    with torch.no_grad():
        model(other)
    assert not torch.equal(found[-1].scribbles[0, 0], two.scribbles[0, 0])


def test_each_sample_drops_types_for_itself(build, mixed, read):
    model = build(type_drop=0.5, layout_drop=0.3)
    found = read(model)
    many = replace(part(mixed, *[1] * 40), seeds=list(range(40)))
    with torch.no_grad():
        model(many), model(replace(part(mixed, 1, 1), seeds=[7, 3]))
    assert len(found[0].kept.unique(dim=0)) > 4
    assert torch.equal(found[1].kept, found[0].kept[[7, 3]])
    dropped = ~found[0].kept.any(1)
    assert 0 < dropped.sum() < 40 and not found[0].valid[dropped].any()


def test_a_sample_never_shows_only_what_it_does_not_have(build, mixed, read):
    model = build(type_drop=0.8, point_only=0.0, no_scribble=0.0, layout_drop=0.0)
    found = read(model)
    bare = replace(mixed.layouts[2], masks=None)
    with torch.no_grad():
        model(replace(part(mixed, *[2] * 40), layouts=[bare] * 40, seeds=list(range(40))))
    assert found[0].kept[:, :2].any(1).all()


@pytest.mark.parametrize(("label_share", "wanted"), [(0.0, ["a red cat", "dog"]), (1.0, ["cat", "dog"])])
def test_an_instance_says_its_caption_or_its_label(label_share, wanted, build, mixed, read, stock):
    model = build(label_share=label_share, **NO_DROPS)
    found = read(model)
    inputs = stock.tokenizer(wanted, padding=True, return_tensors="pt")
    with torch.no_grad():
        model(part(mixed, 0))
        pooled = stock.text_encoder(**inputs).pooler_output
    torch.testing.assert_close(found[0].text[0, :2], pooled, rtol=0, atol=1e-6)


def test_half_of_the_instances_with_captions_say_their_labels(build, mixed):
    model = build(**NO_DROPS)
    _, texts, _ = model._shown([mixed.layouts[0]] * 200, list(range(200)), 32, 48)
    assert 70 < sum(said[0] == "cat" for said in texts) < 130 and {said[1] for said in texts} == {"dog"}


# what is read of a layout


def test_a_single_instance_keeps_its_mask_and_its_polygon(build, mixed, read):
    model = build(mis=0.0)
    found = read(model)
    drawn(model, part(mixed, 2))
    (instances,) = found
    assert instances.masks.shape[2:] == (64, 64)
    wanted = mixed.layouts[2].masks[0].resized(64, 64).decode()
    assert torch.equal(instances.masks[1, 0], wanted) and wanted.any()
    assert instances.polygons[1, 0].any() and not instances.polygons[1, 1:].any()


def test_kinds_that_are_not_given_are_absent_and_not_in_the_corner(build, mixed):
    """Points, scribbles and masks of one instance are not those of its neighbour."""
    model = build(packed=True)
    places = [model._locate(x, 0, 32, 48) for x in mixed.layouts]
    assert places[0].points.tolist() == [[0.25, 0.125], pytest.approx([0.625, 0.575])]
    assert not places[0].scribbles[0].any() and places[0].scribbles[1].any()
    assert places[0].polygons is None and places[0].masks is None
    assert places[1].scribbles is None and places[1].polygons[0].any() and not places[1].polygons[1].any()
    kept = torch.ones(4, 4, dtype=torch.bool)
    tokens = model.tokens(places, [["cat", "dog"], ["cat", "dog"], ["red"], []], kept)
    counts = [x.tokens.shape[1] for x in of_each(tokens, 4)]
    assert counts == [2 + 2 + 1, 2 + 2 + 1 + 1, 1 + 1 + 1 + 1, 0]  # boxes, points, scribbles, polygons, 64 / 64 masks


def test_given_scribbles_have_as_many_points_as_are_read_and_lie_where_they_were_drawn(build):
    line = torch.stack([torch.linspace(0.1, 0.9, 7), torch.full((7,), 0.5)], 1)
    layout = Layout(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), ["cat"], scribbles=[line])
    found = build()._locate(layout, 0, 32, 48).scribbles.unflatten(1, (20, 2))[0]
    assert found.shape == (20, 2)
    distance = (found[:, None] - line[None]).abs().amax(2).amin(1)
    assert distance.max() < 1e-6 and len(found.unique(dim=0)) == 7


def test_masks_of_another_size_than_the_image_give_points_in_their_own_fractions(build, mixed):
    found = build()._locate(mixed.layouts[2], 0, 640, 64).polygons.unflatten(1, (256, 2))[0]
    # borders run around the pixels, at most one off
    assert found.amin(0).tolist() == pytest.approx([5 / 36, 5 / 24], abs=0.042)
    assert found.amax(0).tolist() == pytest.approx([16 / 36, 12 / 24], abs=0.042)


@pytest.mark.parametrize(
    ("conditions", "seen"),
    [(["box", "point"], "boxes points"), (["point"], "points"), (["box", "point", "mask"], "boxes points polygons")],
)
def test_drawing_reads_the_conditions_that_were_asked_for(conditions, seen, build, mixed, read):
    model = build(mis=0.0, conditions=conditions)
    found = read(model)
    drawn(model, part(mixed, 1))
    shown = dict(zip(("boxes", "points", "scribbles", "polygons"), found[0].kept[1].tolist(), strict=True))
    assert [name for name, on in shown.items() if on] == seen.split()
    assert (found[0].masks is not None) == ("mask" in conditions)


# drawing


@pytest.mark.parametrize("apart", [False, True], ids=["all pixels", "objects"])
@pytest.mark.parametrize(("packed", "max_batch"), [(True, None), (False, 3)])
def test_an_image_depends_on_its_own_seed_alone(packed, max_batch, apart, build, mixed):
    model = build(opened=True, packed=packed, mis=0.5, max_batch=max_batch, object_attention=apart)
    together = drawn(model, mixed)
    for i in (0, 2, 3):
        assert (drawn(model, part(mixed, i)) - together[i : i + 1]).abs().max() <= 1
    other = drawn(model, replace(part(mixed, 0), seeds=[99]))
    assert (other - together[:1]).abs().max() > 8


def test_every_condition_changes_the_image(build, mixed):
    model = build(opened=True, mis=0.0, alpha=(1.0, 0.0, 0.0))
    first, second = part(mixed, 0), part(mixed, 2)
    images = [
        drawn(model, replace(x, layouts=[layout]))
        for x, layout in [
            (first, first.layouts[0]),
            (first, replace(first.layouts[0], points=None)),
            (first, replace(first.layouts[0], scribbles=None)),
            (first, Layout.empty()),
        ]
    ]
    images += [drawn(model, x) for x in (second, replace(second, layouts=[replace(second.layouts[0], masks=None)]))]
    assert len({x.numpy().tobytes() for x in images}) == 6


def test_pixels_that_see_their_instance_alone_draw_another_image_and_learn(build, mixed, read):
    model = build(opened=True, mis=0.0, object_attention=True, packed=True)
    assert (
        drawn(model, part(mixed, 0)) - drawn(build(opened=True, mis=0.0, packed=True), part(mixed, 0))
    ).abs().max() > 1
    found = read(model)
    model(mixed).backward()
    cells = found[0].cells
    assert {x.shape for x in cells.values()} == {(4, 2, n) for n in cells} and max(cells) == 4 * 6
    square = cells[24][2, 0].view(4, 6)  # its mask, not its box, which is the left upper quarter
    assert square.nonzero().tolist() == [[1, 1], [1, 2]]


def test_single_instances_are_drawn_from_their_captions_with_their_own_conditions(build, mixed, monkeypatch):
    model = build(opened=True, mis=0.5)
    asked = []
    monkeypatch.setattr(Guided, "__init__", lambda self, _, prompts, inputs, how: asked.append((prompts, inputs)))
    monkeypatch.setattr(Guided, "__call__", lambda self, latents, *_: 0 * latents)
    drawn(model, part(mixed, 0, 1))
    ((prompts, inputs),) = asked
    assert prompts == ["a red cat", "dog", "a red cat", "dog", "a red cat", "dog"]
    assert [said for _, said in inputs[2:]] == [["a red cat"], ["dog"], ["a red cat"], ["dog"]]
    assert [places.scribbles is not None for places, _ in inputs[2:]] == [False, True, False, False]
    assert [places.masks is not None for places, _ in inputs[2:]] == [False, False, True, False]


@pytest.mark.parametrize(("mis", "apart"), [(0.0, 0), (0.4, 2)])
def test_the_multi_instance_sampler_costs_what_it_says_and_tokens_are_made_once(mis, apart, build, mixed, read):
    model = build(mis=mis, num_inference_steps=5, max_batch=None)
    found = read(model)
    rows = []
    model.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    drawn(model, part(mixed, 0))
    evaluations = (2 + 1) * (apart + 1) + 5 - apart if apart else 5 + 1
    assert sum(rows) == 2 * evaluations and len(rows) == 5 + 1
    assert len(found) == 1


@pytest.mark.parametrize("max_batch", [1, 4])
def test_no_more_rows_than_allowed_are_computed_at_once(max_batch, build, mixed):
    model = build(opened=True, mis=0.5, max_batch=max_batch)
    wanted = build(opened=True, mis=0.5, max_batch=None)
    rows = []
    model.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    some = part(mixed, 0, 2)
    assert (drawn(model, some) - drawn(wanted, some)).abs().max() <= 1
    assert max(rows) == max_batch


def test_guidance_is_away_from_the_negative_prompt_and_the_null_grounding(build, mixed):
    model = build(opened=True, mis=0.0, negative_prompt="dog", alpha=(1.0, 0.0, 0.0), guidance_scale=3.0)
    inputs = [(model._locate(mixed.layouts[0], 0, 32, 48), ["cat", "dog"])]
    with torch.no_grad():
        guided = Guided(model, ["a red cat"], inputs, model.sampling)
        latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0))
        found = guided(latents, 500, torch.tensor([0]), 1.0)
        features, _ = model.text.encode_captions(["dog", "a red cat"])
        nothing = Instances(torch.zeros(1, 30, 16), torch.zeros(1, 30, 4), torch.zeros(1, 30, dtype=torch.bool))
        both = [model.unet.position_net(nothing), together(guided.tokens[1:])]
        without, given = (model.predict(latents, 500, x[None], y) for x, y in zip(features, both, strict=True))
    torch.testing.assert_close(found, without + 3 * (given - without), rtol=1e-4, atol=1e-5)


def test_without_grounded_steps_the_base_draws(build, mixed, stock):
    from diffusers import PNDMScheduler

    model = build(mis=0.0, negative_prompt=None)
    images = drawn(model, part(mixed, 0))
    pipe = type(stock)(**{**stock.components, "scheduler": PNDMScheduler.from_config(stock.scheduler.config)})
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(10)
    wanted = pipe("a red cat", height=32, width=48, num_inference_steps=2, generator=generator, output_type="pt")
    assert (images - (wanted.images * 255).round().int()).abs().max() <= 1


# weights


def test_what_was_trained_is_found_again(build, mixed, tmp_path):
    from safetensors.torch import save_file

    for packed in (True, False):
        model = build(opened=True, packed=packed)
        file = tmp_path / f"{packed}.safetensors"
        save_file({name: x.detach() for name, x in trainable(model).items()}, file)
        again = build(packed=packed, weights=str(file))
        assert not again.untrained and torch.equal(*(drawn(x, part(mixed, 1)) for x in (again, model)))
    with pytest.raises(CheckpointError, match=r"are missing: position_net\.null_"):
        build(packed=False, weights=str(tmp_path / "True.safetensors"))


def test_the_released_file_is_read_as_tensors(build, mixed, tmp_path):
    """A training state of the released code, with the whole UNet under ``model``."""
    model = build(opened=True)
    tensors = to_published({name: x.detach() for name, x in adapter_parameters(model.unet).items()})
    names = {}
    for name in tensors:
        ours = name.replace("down_blocks.0.attentions.0.", "input_blocks.1.1.")
        ours = ours.replace("mid_block.attentions.0.", "middle_block.1.")
        for layer in (0, 1):
            ours = ours.replace(f"up_blocks.1.attentions.{layer}.", f"output_blocks.{layer + 2}.1.")
        for block in (0, 1):
            for layer in (0, 1):
                for letter in "bs":
                    scaleu = f"up_blocks.{block}.resnets.{layer}.scaleu.{letter}"
                    ours = f"scaleu_{letter}_{2 * block + layer}" if ours == scaleu else ours
        names[name] = ours
    published = {names[name]: x for name, x in tensors.items()}
    folder = tmp_path / "released"
    folder.mkdir()
    torch.save({"model": published, "iters": 3, "opt": {"state": {}}}, folder / "instancediffusion_sd15.pth")
    for weights in (folder, folder / "instancediffusion_sd15.pth"):
        again = build(weights=str(weights))
        assert not again.untrained and torch.equal(drawn(again, part(mixed, 1)), drawn(model, part(mixed, 1)))


def test_the_mask_branch_can_begin_with_a_trained_backbone(build, tmp_path):
    from transformers import ConvNextConfig, ConvNextModel

    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[4, 4, 4, 8])
    network = ConvNextModel(config)
    network.save_pretrained(tmp_path)
    found = build(backbone=str(tmp_path)).unet.position_net.convnext_tiny_backbone.state_dict()
    assert found and all(torch.equal(x, network.state_dict()[name]) for name, x in found.items())


def test_weights_that_are_missing_are_named_before_anything_is_read(build, tmp_path):
    with pytest.raises(MissingWeights, match="does not exist"):
        build(weights=str(tmp_path))
    with pytest.raises(MissingWeights, match=r"instancediffusion_sd15\.pth"):
        build(weights="nobody/nothing")


@torch.no_grad()
def test_features_are_kept(build, mixed, tmp_path):
    cached = {"cache": str(tmp_path), "cache_latents": True}
    found = [float(x(mixed)) for x in (build(opened=True), build(opened=True, **cached), build(opened=True, **cached))]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_frozen_may_be_in_half_precision(dtype, build, mixed):
    model, exact = build(opened=True, dtype=dtype), build(opened=True)
    assert {x.dtype for x in trainable(model).values()} == {torch.float32}
    loss = model(mixed)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(exact(mixed).detach()), rel=0.05)
    assert all(x.grad is not None and x.grad.isfinite().all() for x in trainable(model).values())
    drawn(model, part(mixed, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditions": ["boxes"]}, "conditions must be some of box, point, scribble, mask"),
        ({"conditions": []}, "conditions must be some of"),
        ({"mis": 1.5}, "mis is a share"),
        ({"max_batch": 0}, "max_batch must be at least 1"),
        ({"alpha": (0.5, 0.2, 0.2)}, "three shares of 1"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"layout_drop": 1.2}, "is a probability"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, build):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_requests_that_make_no_sense_are_refused(build, mixed):
    model = build()
    with pytest.raises(ValueError, match="must be as many"):
        model.sample(["a"], [], [1], height=32, width=32)
    with pytest.raises(ValueError, match="multiples of 8"):
        model.sample(["a"], [Layout.empty()], [1], height=33, width=32)
    with pytest.raises(ValueError, match="multiples of 8"):
        model(replace(mixed, images=mixed.images[..., :44]))
    assert model.sample([], [], [], height=32, width=32).shape == (0, 3, 32, 32)
    assert sampler.gate(model.sampling.alpha, 5) == [1, 1, 1, 1, 0] and (model.height, model.width) == (64, 64)
