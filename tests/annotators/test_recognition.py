"""What the three RAM taggers share: reading a published file, the network, the lists and the decision."""

import runpy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from safetensors.torch import save_file

from scenewright.annotators.recognition.decoder import DecoderLayer
from scenewright.annotators.recognition.pictures import squash, standardise
from scenewright.annotators.recognition.position import resize_bias_table
from scenewright.annotators.recognition.prompts import read_vocabulary, sentences
from scenewright.annotators.recognition.tags import TagList, decide, find_tags, ram_tags, read_names, tag2text_tags
from scenewright.annotators.recognition.weights import read_network
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import decode
from scenewright.networks import precision

HELP = runpy.run_path(str(Path(__file__).with_name("published_taggers.py")))
published, write = HELP["published"], HELP["write"]
KINDS = ("RAM", "RAM++", "Tag2Text")


def fixture_image(config, tensors):
    """The input image of a fixture: a repeated tile and a coarse picture, summed."""
    side = config["image_size"]
    tile, coarse = tensors["image_tile"].float(), tensors["image_coarse"].float()
    repeated = tile.repeat(1, 1, side // tile.shape[-2], side // tile.shape[-1])
    for axis in (-2, -1):
        coarse = coarse.repeat_interleave(side // coarse.shape[axis], axis)
    return repeated + coarse


@pytest.mark.golden
@pytest.mark.parametrize(("name", "kind"), [("ram", "RAM"), ("ram_plus", "RAM++")])
def test_the_network_computes_what_the_reference_computes(name, kind, golden, tmp_path):
    about, tensors = golden(f"ram/{name}")
    _, weights = golden(f"ram/{name}.weights")
    config = about["config"]
    network = read_network(
        write(tmp_path / "published.pth", weights),
        kind,
        heads=config["head"]["num_attention_heads"],
        eps=config["head"]["layer_norm_eps"],
        descriptions=config["descriptions_per_class"] or 1,
    )
    assert network.image_size == config["image_size"]
    image = fixture_image(config, tensors)
    with torch.inference_mode():
        backbone = network.see(image)
        embeds = network.image_proj(backbone)
        queries = network.queries(embeds)
        found = {
            "backbone": backbone,
            "image_embeds": embeds,
            "class_queries": queries if kind == "RAM++" else queries[0],
            "head_output": network.decoder(queries, embeds),
            "logits": network(image),
        }
        if kind == "RAM++":
            features = network.queries.features(embeds)
            atol = about["tolerance"].get("label_embed_reweighted", about["tolerance"]["class_queries"])
            torch.testing.assert_close(features, tensors["label_embed_reweighted"], atol=atol, rtol=0)
    for field, value in found.items():
        torch.testing.assert_close(value, tensors[field], atol=about["tolerance"][field], rtol=0, msg=field)
    tags = TagList(about["tag_list"], tensors["thresholds"])
    tags = tags.without([about["tag_list"][i] for i in config["deleted_classes"]])
    chosen = decide(found["logits"], tags.thresholds)
    assert torch.equal(chosen, tensors["selected"].bool())
    assert [" | ".join(tags.seen(x)) for x in chosen] == about["tags"]


@pytest.mark.golden
def test_a_tag_is_seen_where_its_probability_is_above_its_threshold(golden):
    _, tensors = golden("ram/decision")
    assert torch.equal(decide(tensors["logits"], tensors["thresholds"]), tensors["selected"].bool())


@pytest.mark.golden
def test_a_bias_table_is_resized_as_the_reference_does(golden):
    about, tensors = golden("ram/relative_position_resize")
    for name in (x for x in tensors if x.startswith("in_")):
        wanted = tensors[name.replace("in_", "out_")]
        window = (round(len(wanted) ** 0.5) + 1) // 2
        found = resize_bias_table(tensors[name], window)
        torch.testing.assert_close(found, wanted, atol=about["tolerance"]["all"], rtol=0, msg=name)


def test_a_bias_table_of_the_right_size_is_left_alone_and_the_centre_always_stays():
    table = torch.randn(7 * 7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize_bias_table(table, 4), table)
    for window in (2, 3, 6, 9):
        resized = resize_bias_table(table, window)
        assert resized.shape == ((2 * window - 1) ** 2, 3)
        torch.testing.assert_close(resized[len(resized) // 2], table[24])
    torch.testing.assert_close(resize_bias_table(torch.ones(49, 1), 6), torch.ones(121, 1))


def test_a_decoder_layer_attends_as_torchs_own_attention_does():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = DecoderLayer(8, 6, 16, heads=4, eps=1e-12)
        queries, tokens = torch.randn(1, 5, 8), torch.randn(3, 7, 6)
    own = torch.nn.MultiheadAttention(8, 4, kdim=6, vdim=6, batch_first=True)
    own.q_proj_weight, own.k_proj_weight = layer.query.weight, layer.key.weight
    own.v_proj_weight, own.out_proj = layer.value.weight, layer.output
    own.in_proj_bias = torch.nn.Parameter(torch.cat([layer.query.bias, layer.key.bias, layer.value.bias]))
    attended = layer.attended(queries + own(queries.expand(3, -1, -1), tokens, tokens)[0])
    fed = layer.narrow(torch.nn.functional.gelu(layer.widen(attended)))
    torch.testing.assert_close(layer(queries, tokens), layer.fed(attended + fed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"embed_dim": 8, "depths": (1, 1, 2, 1), "heads": (2, 2, 4, 4), "window": 3},
        {"classes": 2, "width": 16, "text_width": 12},
    ],
    ids=["small", "larger", "wider head"],
)
def test_sizes_are_read_off_the_tensors(kind, sizes, tmp_path):
    network = read_network(write(tmp_path / "x.pth", published(kind, **sizes)), kind)
    config = network.backbone.config
    assert network.image_size == 32 * sizes.get("window", 2)
    assert (config.embed_dim, tuple(config.depths)) == (sizes.get("embed_dim", 4), sizes.get("depths", (1, 2, 1, 1)))
    assert tuple(config.num_heads) == sizes.get("heads", (1, 1, 2, 2))
    logits = network(torch.zeros(2, 3, network.image_size, network.image_size))
    assert logits.shape == (2, sizes.get("classes", 6)) and logits.isfinite().all()
    assert not any(x.requires_grad for x in network.parameters())


def test_old_names_half_precision_and_safetensors_give_the_same_network(tmp_path):
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in published("RAM").items()}
    older = {name.replace("tagging_head", "vision_multi"): x for name, x in tensors.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    paths = [write(tmp_path / "new.pth", tensors), write(tmp_path / "old.pth", older), tmp_path / "x.safetensors"]
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first, *others = [read_network(path, "RAM")(image) for path in paths]
    assert first.dtype == torch.float32
    assert all(torch.equal(first, x) for x in others)


def test_another_picture_size_gives_larger_windows(tmp_path):
    path = write(tmp_path / "x.pth", published("RAM"))
    network = read_network(path, "RAM", 96)
    assert network.image_size == 96 and network.backbone.config.window_size == 3
    assert network(torch.zeros(1, 3, 96, 96)).isfinite().all()
    for size in (0, 50, 100):
        with pytest.raises(ValueError, match="image_size must be a multiple of 32"):
            read_network(path, "RAM", size)


def _without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("RAM", lambda _: {}, "no checkpoint of RAM: it has no reweight_scale or image_proj"),
        ("RAM", lambda _: {"pos_embed": torch.zeros(3)}, "but pos_embed"),
        ("RAM", lambda _: published("RAM++"), "holds RAM.., not RAM; read it with annotator/tagger=ram_plus"),
        ("RAM++", lambda _: published("Tag2Text"), "holds Tag2Text, not RAM..; read it with annotator/tagger=tag2text"),
        ("Tag2Text", lambda _: published("RAM"), "holds RAM, not Tag2Text"),
        ("RAM", _without("visual_encoder.patch_embed.proj.weight"), "no visual_encoder.patch_embed.proj.weight"),
        ("RAM", _without("label_embed"), "no label_embed"),
        ("RAM", _without("visual_encoder.layers.1.blocks.1.mlp.fc1.bias"), "1 of .* missing.*blocks.1.mlp.fc1.bias"),
        ("RAM", _without("fc.bias"), "1 of .* missing.*score.bias"),
        ("RAM", lambda x: x | {"fc.weight": torch.zeros(1, 9)}, "1 have another shape; score.weight must be"),
        ("RAM", lambda x: x | {"visual_encoder.layers.3.blocks.0.attn.qkv.weight": torch.zeros(6, 2)}, "another shape"),
    ],
)
def test_a_file_of_another_architecture_is_refused_by_name(kind, change, message, tmp_path):
    path = write(tmp_path / "x.pth", change(published(kind)))
    with pytest.raises(CheckpointError, match=message):
        read_network(path, kind)


def test_a_file_that_could_run_code_is_not_opened(tmp_path):
    torch.save({"model": Path("x")}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="was not opened"):
        read_network(tmp_path / "y.pth", "RAM")


def test_squashing_differs_from_pillow_by_a_grey_level_at_most(picture):
    for seed, size in enumerate([(300, 200), (90, 400), (33, 17), (384, 384)]):
        image = decode(picture("PNG", size=size, seed=seed))
        plain = PILImage.fromarray(image.permute(1, 2, 0).numpy()).resize((128, 128), PILImage.Resampling.BICUBIC)
        wanted = torch.from_numpy(np.array(plain)).permute(2, 0, 1)
        (found,) = squash([image], 128)
        assert (found.int() - wanted.int()).abs().max() <= 1
    assert squash([image, image[:, :40]], 64).shape == (2, 3, 64, 64)


def test_pixels_are_standardised_over_imagenet():
    white = standardise(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))[0, :, 0, 0]
    torch.testing.assert_close(white, torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got 'int8'"):
        precision("int8")


def test_the_shipped_lists_are_upstreams():
    tags = ram_tags()
    counts = Counter(tags.values())
    assert len(tags) == 4585 and not any(c in name for name in tags for c in ",.()")
    assert [counts[x] for x in (0.65, 0.8, 0.9, 1.0)] == [3414, 735, 119, 10]
    off = ["body", "cocktail table", "French", "group", "lie", "show", "see", "set", "stop", "use"]
    assert [name for name, threshold in tags.items() if threshold == 1] == off
    assert min(tags.values()) == 0.45 and max(x for x in tags.values() if x < 1) == 0.99
    assert sum(any(c.isupper() for c in name) for name in tags) == 18
    assert sum("-" in name for name in tags) == 6 and [x for x in tags if "'" in x] == ["rubik's cube"]
    older = tag2text_tags()
    places = {127: "quarter", 1167: "woman", 2701: "person", 2828: "man", 2961: "back", 3012: "stare"}
    places |= {3265: "three", 3338: "four", 3351: "two", 3355: "five", 3359: "one"}
    assert len(older) == 3429 and {i: older[i] for i in places} == places


def test_a_name_of_two_classes_is_reported_once_and_a_deleted_one_never():
    tags = TagList(["orange", "dog", "orange"], torch.tensor([0.5, 0.5, 0.5]))
    assert tags.seen(torch.tensor([True, True, True])) == ["orange", "dog"]
    assert tags.seen(torch.tensor([False, False, False])) == []
    kept = tags.without(["orange"])
    assert kept.seen(decide(torch.full((1, 3), 90.0), kept.thresholds)[0]) == ["dog"]
    with pytest.raises(CheckpointError, match="deleted names cat, which the list of 3 tags lacks"):
        tags.without(["cat"])
    with pytest.raises(CheckpointError, match="3 tags but 1 thresholds"):
        TagList(["a", "b", "c"], torch.tensor([0.5]))


def find(tmp_path, tag_list=None, thresholds=None, count=2):
    known = {"dog": 0.7, "cat": 0.8}
    return find_tags(
        tag_list,
        thresholds,
        checkpoint=tmp_path / "x.pth",
        filename="list.txt",
        count=count,
        default=list(known),
        by_name=known,
    )


def test_lists_are_found_where_they_are_said_to_be(tmp_path):
    def got(**given):
        found = find(tmp_path, **given)
        return found.names, [round(x, 4) for x in found.thresholds.tolist()]

    assert got() == (["dog", "cat"], [0.7, 0.8])
    assert got(tag_list=["cat", "cow"]) == (["cat", "cow"], [0.8, 0.68])
    assert got(thresholds=0.3) == (["dog", "cat"], [0.3, 0.3])
    (tmp_path / "list.txt").write_text("ant\r\nbee\r\n")
    assert got() == (["ant", "bee"], [0.68, 0.68])
    (tmp_path / "list_threshold.txt").write_text("0.1\n0.2\n")
    assert got() == (["ant", "bee"], [0.1, 0.2])
    assert got(tag_list=["cat", "cow"]) == (["cat", "cow"], [0.8, 0.68])
    assert got(thresholds=str(tmp_path / "list_threshold.txt"), tag_list=["a", "b"]) == (["a", "b"], [0.1, 0.2])
    with pytest.raises(CheckpointError, match=r"has 3 classes, but the tag list has 2 names; .*as list.txt"):
        find(tmp_path, count=3)
    with pytest.raises(MissingWeights, match="the tag list nowhere.txt is not there"):
        find(tmp_path, tag_list="nowhere.txt")
    (tmp_path / "words.txt").write_text("high\nlow\n")
    with pytest.raises(CheckpointError, match="must hold one threshold per line"):
        find(tmp_path, thresholds=str(tmp_path / "words.txt"))


def test_names_are_read_line_by_line(tmp_path):
    (tmp_path / "x.txt").write_text("a\n b c \n\nd\n\n")
    assert read_names(tmp_path / "x.txt") == ["a", "b c", "", "d"]


def test_a_tag_stands_in_63_sentences():
    said = sentences("Orange_juice.")
    assert len(said) == len(set(said)) == 63
    assert all(x.count("orange juice") == 1 and x.endswith(".") for x in said)
    for wanted in (
        "There is an orange juice in the scene.",
        "itap of my orange juice.",
        "This is a photo of many orange juice.",
        "This is a blurry photo of the orange juice.",
        "This is a photo of a hard to see orange juice.",
        "This is an embroidered orange juice.",
        "This is the toy orange juice.",
        "This is a painting of a orange juice.",
    ):
        assert wanted in said
    assert "This is a photo of a dog or cat." in sentences("dog/cat")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"dog": ["barks"], "cat": ["purrs", "sleeps"]}', {"dog": ["barks"], "cat": ["purrs", "sleeps"]}),
        ('[{"dog": ["barks"]}, {"cat": ["purrs"]}]', {"dog": ["barks"], "cat": ["purrs"]}),
    ],
)
def test_descriptions_are_read_from_json(text, wanted, tmp_path):
    (tmp_path / "tags.json").write_text(text)
    assert read_vocabulary(str(tmp_path / "tags.json")) == wanted
    assert read_vocabulary(wanted) == wanted


def test_a_vocabulary_that_says_nothing_is_refused(tmp_path):
    (tmp_path / "tags.txt").write_text("dog\ncat\n")
    assert list(read_vocabulary(str(tmp_path / "tags.txt"))) == ["dog", "cat"]
    for bad in ([], {"dog": []}, [" "]):
        with pytest.raises(CheckpointError, match="tags must name things"):
            read_vocabulary(bad)
    for name, text in (("a.json", "[1, 2]"), ("b.json", "{")):
        (tmp_path / name).write_text(text)
        with pytest.raises(CheckpointError, match="must hold a list of descriptions"):
            read_vocabulary(str(tmp_path / name))
    with pytest.raises(MissingWeights, match="the descriptions none.json"):
        read_vocabulary("none.json")
