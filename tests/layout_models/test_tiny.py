"""The tiny model: what it reads, what its loss and its images depend on, and what it refuses."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from scenewright.checkpoints import CheckpointError
from scenewright.datasets.shapes import Shapes
from scenewright.layout import Batch, Layout
from scenewright.layout_models.rich_context.adapter import adapter_parameters
from scenewright.layout_models.tiny import Tiny
from scenewright.layout_models.tiny.words import WordTokenizer
from scenewright.layout_models.tiny_caption_only import TinyCaptionOnly


def scenes(count: int, **settings):
    return list(Shapes(**{"length": count, "height": 32, "width": 32, "difficulty": "easy", **settings}))


def randomised(kind, **settings):
    """A model whose regional layers say something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(weights=None, num_inference_steps=2, **settings)
        for parameter in adapter_parameters(model.unet).values():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


#: What a study takes away from the model, one thing after the other.
ABLATIONS = [{}, {"plan": False}, {"plan": False, "box_code": False}, {"plan": False, "overlaps": "averaged"}]


@pytest.fixture(scope="module")
def tiny():
    return randomised(Tiny)


@pytest.fixture(scope="module", params=ABLATIONS, ids=str)
def ablated(request):
    return randomised(Tiny, **request.param)


@pytest.mark.parametrize("difficulty", ["easy", "middle", "full"])
def test_every_word_of_the_drawn_scenes_has_an_id(difficulty):
    tokenizer = WordTokenizer()
    for sample in scenes(40, difficulty=difficulty):
        for text in [sample.caption, *sample.layout.labels, *sample.layout.captions]:
            assert tokenizer.unknown not in tokenizer.tokens(text), text
            assert len(tokenizer.tokens(text)) <= tokenizer.length - 2, text


def test_a_loss_is_the_mean_of_its_images_losses_whatever_the_batch(ablated):
    batch = Batch.collate(scenes(4), seeds=[5, 6, 7, 8])
    alone = [
        ablated(Batch(batch.images[i : i + 1], [batch.captions[i]], [batch.layouts[i]], seeds=[batch.seeds[i]]))
        for i in range(4)
    ]
    assert torch.allclose(ablated(batch), torch.stack(alone).mean(), atol=1e-6)


def test_an_image_depends_on_its_own_seed_and_not_on_its_batch(ablated):
    samples = scenes(3)
    captions, layouts = [x.caption for x in samples], [x.layout for x in samples]
    together = ablated.sample(captions, layouts, [4, 5, 6], height=32, width=32)
    for i in range(3):
        alone = ablated.sample(captions[i : i + 1], layouts[i : i + 1], [4 + i], height=32, width=32)
        assert (together[i].int() - alone[0].int()).abs().max() <= 1
    again = ablated.sample(captions[:1], layouts[:1], [9], height=32, width=32)
    assert not torch.equal(again[0], together[0])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 48), (64, 32)])
def test_it_draws_rectangles_too(tiny, height, width):
    sample = scenes(1)[0]
    assert tiny.sample([sample.caption], [sample.layout], [0], height=height, width=width).shape == (
        1,
        3,
        height,
        width,
    )


def test_an_empty_layout_leaves_the_caption_alone_to_decide(tiny):
    with_layers = tiny.sample(["a red circle"], [Layout.empty()], [0], height=32, width=32)
    bare = randomised(Tiny)
    for block in bare.unet.modules():
        if hasattr(block, "fuser"):
            block.fuser.forward = lambda hidden_states, grounding: hidden_states
    assert torch.equal(with_layers, bare.sample(["a red circle"], [Layout.empty()], [0], height=32, width=32))


def test_a_moved_box_changes_the_image_and_the_twin_does_not_see_it(tiny):
    layout = Layout(boxes=torch.tensor([[0.1, 0.1, 0.5, 0.5]]), labels=["red circle"])
    moved = replace(layout, boxes=layout.boxes + 0.4)
    twin = randomised(TinyCaptionOnly)
    for model, differs in ((tiny, True), (twin, False)):
        images = [model.sample(["a red circle"], [x], [0], height=32, width=32) for x in (layout, moved)]
        assert torch.equal(*images) != differs


def test_what_is_trained_gets_a_gradient():
    model = randomised(Tiny).train()
    model(Batch.collate(scenes(8), seeds=list(range(8)))).backward()
    silent = [name for name, x in model.named_parameters() if x.requires_grad and x.grad is None]
    assert silent == []
    assert not model.unet.position_net.null_text_feature.requires_grad


def test_without_box_code_and_plan_only_which_cells_a_box_covers_matters():
    sample = scenes(1)[0]
    inner = replace(sample.layout, boxes=(sample.layout.boxes * 8).round() / 8)
    shrunk = replace(inner, boxes=inner.boxes + torch.tensor([0.01, 0.01, -0.01, -0.01]))
    for settings, same in (({"box_code": False}, True), ({}, False)):
        model = randomised(Tiny, plan=False, **settings)
        one, other = (model.sample([""], [x], [0], height=32, width=32) for x in (inner, shrunk))
        assert torch.equal(one, other) == same


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"overlaps": "summed"}, "'regions' or 'averaged', got 'summed'"),
        ({"overlaps": "averaged"}, "want plan=false"),
        ({"box_code": False}, "want plan=false"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Tiny(weights=None, **settings)


@pytest.mark.parametrize("settings", ABLATIONS, ids=str)
def test_what_begins_as_the_twin_draws_as_the_twin(settings):
    sample = scenes(1)[0]
    arguments = [sample.caption], [sample.layout], [0]
    twin = TinyCaptionOnly(num_inference_steps=2)
    model = Tiny(weights=None, base="twin", num_inference_steps=2, **settings)
    assert not model.untrained
    images = [x.sample(*arguments, height=32, width=32).int() for x in (twin, model)]
    assert (images[0] - images[1]).abs().max() <= 1
    with pytest.raises(CheckpointError, match="does not exist"):
        Tiny(weights=None, base="nowhere.safetensors", **settings)


def test_weights_of_another_ablation_are_refused():
    with pytest.raises(CheckpointError):
        Tiny(plan=False)


@pytest.mark.parametrize("model", [Tiny, TinyCaptionOnly])
def test_training_on_one_batch_lowers_its_loss(model):
    network = randomised(model).train()
    batch = Batch.collate(scenes(4), seeds=[1, 2, 3, 4])
    optimizer = torch.optim.AdamW([x for x in network.parameters() if x.requires_grad], 2e-3)
    losses = []
    for _ in range(8):
        losses.append(network(batch))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"height": 33}, "multiples of 4, got 33"),
        ({"captions": []}, "as many, got 0, 1 and 1"),
        ({"layouts": [Layout(boxes=torch.tensor([[0.5, 0.1, 0.2, 0.4]]), labels=["dog"])]}, "box 0 must be x_min"),
        ({"layouts": [Layout(boxes=torch.tensor([[0.5, torch.nan, 0.7, 0.4]]), labels=["dog"])]}, "finite"),
    ],
)
def test_bad_input_is_named(tiny, arguments, message):
    usual = {"captions": [""], "layouts": [Layout.empty()], "seeds": [0], "height": 32, "width": 32}
    with pytest.raises(ValueError, match=message):
        tiny.sample(**{**usual, **arguments})


def test_300_objects_with_words_that_no_scene_has_are_drawn(tiny):
    corners = torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 0.8
    layout = Layout(boxes=torch.cat([corners, corners + 0.2], 1), labels=["word " * 500] * 300)
    assert tiny.sample(["a zebra"], [layout], [0], height=32, width=32).shape == (1, 3, 32, 32)


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    save_file(TinyCaptionOnly(weights=None).state_dict(), tmp_path / "twin.safetensors")
    with pytest.raises(CheckpointError, match=r"37 are missing: plan.*, 1 have other shapes: unet.conv_in"):
        Tiny(weights=str(tmp_path / "twin.safetensors"))
    with pytest.raises(CheckpointError, match="does not exist"):
        Tiny(weights=str(tmp_path / "none.safetensors"))


@pytest.mark.parametrize("model", [Tiny, TinyCaptionOnly])
def test_the_weights_that_come_along_are_whole_and_small(model):
    network = model()
    assert not network.untrained and network.shipped.stat().st_size < 5e6
    assert all(x.isfinite().all() for x in network.parameters())


def test_with_the_weights_that_come_along_colours_and_forms_are_where_they_should_be():
    """A circle and a ring of one size and place differ in the middle, whose colour is the ring's background."""
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    found = []
    for shape in ("circle", "ring"):
        caption = f"A large red {shape} on a plain white background."
        layout = Layout(boxes=boxes, labels=[f"red {shape}"], captions=[f"a large red {shape}, in the center"])
        found.append(Tiny().eval().sample([caption], [layout], [0], height=32, width=32)[0].float())
    for image in found:
        red, green, blue = image[:, 9, 15]  # the top of both
        assert red > 1.5 * green and red > 1.5 * blue
        assert (image[:, :4, :4].mean((1, 2)) > 200).all()
    middle = [x[:, 15:17, 15:17].mean((1, 2)) for x in found]
    assert middle[0][0] > 1.5 * middle[0][1] and (middle[1] > 180).all()
