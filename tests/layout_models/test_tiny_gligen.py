"""The tiny models with gated self-attention: what their losses and images depend on, and the multi-instance sampler."""

from dataclasses import replace

import pytest
import torch

from scenewright.checkpoints import CheckpointError
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch, Layout
from scenewright.layout_models.instance_diffusion.attach import adapter_parameters
from scenewright.layout_models.rich_context.grounding import said_of
from scenewright.layout_models.tiny_caption_only import TinyCaptionOnly
from scenewright.layout_models.tiny_gligen import TinyGLIGEN
from scenewright.layout_models.tiny_instance_diffusion import TinyInstanceDiffusion

SIZE = {"height": 32, "width": 32}
KINDS = [TinyGLIGEN, TinyInstanceDiffusion]


def scenes(count: int, **settings):
    return list(Shapes(**{"length": count, **SIZE, "difficulty": "middle", "objects": (1, 3), **settings}))


def randomised(kind, **settings):
    """A model whose layers say something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(**{"num_inference_steps": 2, "alpha": (1.0, 0.0, 0.0), "base": "twin", **settings})
        for name, parameter in adapter_parameters(model.unet).items():
            if ".alpha_" in name:
                parameter.data.fill_(1.0)
            else:
                parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return randomised(request.param)


@pytest.fixture(params=[{}, {"object_attention": True}], ids=["all pixels", "objects"])
def attending(request, model):
    model.object_attention = request.param.get("object_attention", False)
    yield model
    model.object_attention = False


def drawn(model, samples, seeds, **settings):
    before = {name: getattr(model, name) for name in settings}
    vars(model).update(settings)
    images = model.sample([x.caption for x in samples], [x.layout for x in samples], seeds, **SIZE)
    vars(model).update(before)
    return images.int()


def test_a_loss_is_the_mean_of_its_images_losses_whatever_the_batch(attending):
    samples = [*scenes(4), replace(scenes(1)[0], layout=Layout.empty())]
    seeds = [5, 6, 7, 8, 9]
    alone = [attending(Batch.collate([x], seeds=[seed])) for x, seed in zip(samples, seeds, strict=True)]
    with torch.no_grad():
        together = attending(Batch.collate(samples, seeds=seeds))
    assert torch.allclose(together, torch.stack(alone).mean(), atol=1e-6)


def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(attending):
    mis = 0.5 if attending.object_attention else 0.0
    samples = [*scenes(2), replace(scenes(1)[0], layout=Layout.empty())]
    together = drawn(attending, samples, [4, 5, 6], mis=mis)
    for i, sample in enumerate(samples):
        assert (together[i] - drawn(attending, [sample], [4 + i], mis=mis)[0]).abs().max() <= 1
    assert not torch.equal(drawn(attending, samples[:1], [9], mis=mis)[0], together[0])


def test_pixels_that_see_their_object_alone_draw_another_image(model):
    samples = scenes(1, objects=(3, 3))
    assert not torch.equal(*(drawn(model, samples, [0], object_attention=x) for x in (False, True)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_begins_as_the_twin_draws_as_the_twin(kind):
    samples = scenes(2)
    began = kind(base="twin", num_inference_steps=2)
    assert not began.untrained
    twin = TinyCaptionOnly(num_inference_steps=2)
    assert (drawn(began, samples, [0, 1]) - drawn(twin, samples, [0, 1])).abs().max() <= 1


def test_boxes_are_seen_while_the_gates_are_open_only(model):
    sample = scenes(1, objects=(1, 1))[0]
    layout = Layout(boxes=torch.tensor([[0.1, 0.1, 0.5, 0.5]]), labels=["red circle"])
    pair = [replace(sample, layout=x) for x in (layout, replace(layout, boxes=layout.boxes + 0.4))]
    for alpha, seen in (((1.0, 0.0, 0.0), True), ((0.5, 0.0, 0.5), True), ((0.0, 0.0, 1.0), False)):
        images = drawn(model, pair, [0, 0], alpha=alpha)
        assert ((images[0] - images[1]).abs().max() > 1) == seen


def test_an_empty_layout_leaves_the_caption_alone_to_decide():
    sample = replace(scenes(1)[0], layout=Layout.empty())
    images = [drawn(x, [sample], [0]) for x in (randomised(TinyGLIGEN), TinyCaptionOnly(num_inference_steps=2))]
    assert (images[0] - images[1]).abs().max() <= 1


@pytest.mark.parametrize("max_batch", [1, 3])
def test_how_many_are_drawn_at_once_does_not_change_the_images(model, max_batch):
    samples = scenes(2, objects=(2, 2))
    images = [drawn(model, samples, [1, 2], mis=0.5, max_batch=x) for x in (None, max_batch)]
    assert (images[0] - images[1]).abs().max() <= 1


def test_objects_that_are_drawn_apart_to_the_end_are_averaged_with_the_whole():
    gligen = randomised(TinyGLIGEN)
    sample = scenes(1, objects=(2, 2))[0]
    noise = torch.randn(1, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    each = [sample.layout.keep(torch.tensor([i])) for i in range(2)]
    captions, layouts = [sample.caption, *said_of(sample.layout)], [sample.layout, *each]
    with torch.no_grad():
        apart = gligen._denoise(noise.expand(3, -1, -1, -1), captions, layouts, [0, 0, 0])
        gligen.mis = 1.0
        averaged = gligen._denoise(noise, [sample.caption], [sample.layout], [0])
    assert torch.allclose(averaged[0], apart.mean(0), atol=1e-4)


def test_the_multi_instance_sampler_costs_what_it_should(model):
    samples = scenes(2, objects=(3, 3))
    rows = []
    hook = model.unet.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    drawn(model, samples, [0, 1], mis=0.4, num_inference_steps=5)
    hook.remove()
    # two of five steps apart; guidance sees all twice
    assert rows == [2 * 2 * (1 + 3)] * 2 + [2 * 2] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_gets_a_gradient_and_lowers_the_loss_of_its_batch(kind):
    network = randomised(kind).train()
    batch = Batch.collate(scenes(4), seeds=[1, 2, 3, 4])
    optimizer = torch.optim.AdamW([x for x in network.parameters() if x.requires_grad], 1e-3)
    losses = []
    for _ in range(6):
        losses.append(network(batch))
        losses[-1].backward()
        assert [name for name, x in network.named_parameters() if x.requires_grad and x.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]
    nulls = [x for name, x in network.unet.position_net.named_parameters() if name.startswith("null_")]
    assert nulls and not any(x.requires_grad for x in nulls)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mis": 1.5}, "mis is a share of the steps, from 0 to 1, got 1.5"),
        ({"max_batch": 0}, "max_batch must be at least 1, got 0"),
        ({"alpha": (0.5, 0.4, 0.2)}, "three shares of 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TinyGLIGEN(**settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 33}, "multiples of 4, got 33"),
        ({"captions": []}, "as many, got 0, 1 and 1"),
        ({"layouts": [Layout(boxes=torch.tensor([[0.5, 0.1, 0.2, 0.4]]), labels=["dog"])]}, "box 0 must be x_min"),
        ({"layouts": [Layout(boxes=torch.tensor([[0.5, torch.nan, 0.7, 0.4]]), labels=["dog"])]}, "finite"),
    ],
)
def test_bad_input_is_named(model, arguments, message):
    usual = {"captions": [""], "layouts": [Layout.empty()], "seeds": [0], **SIZE}
    with pytest.raises(ValueError, match=message):
        model.sample(**{**usual, **arguments})


def test_300_objects_on_a_rectangle_are_drawn(model):
    corners = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 0.8
    layout = Layout(boxes=torch.cat([corners, corners + 0.2], 1), labels=["word " * 50] * 300)
    assert model.sample(["a zebra"], [layout], [0], height=32, width=48).shape == (1, 3, 32, 48)


@pytest.mark.parametrize("kind", KINDS)
def test_no_weights_come_along(kind):
    with pytest.raises(CheckpointError, match="does not exist"):
        kind(weights="shipped")
