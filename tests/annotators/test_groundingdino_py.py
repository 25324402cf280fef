import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scenewright.annotators.detectors.groundingdino import GroundingDINO
from scenewright.annotators.detectors.groundingdino_py import GroundingDINOPy
from scenewright.annotators.isolation.process import WorkerError
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout

LEGACY = Path(os.environ.get("SCENEWRIGHT_LEGACY", Path(__file__).parents[2] / ".venv-legacy"))
needs_legacy = pytest.mark.skipif(not (LEGACY / "bin" / "python").exists(), reason="`make legacy` was not run")

#: BERT's special tokens and punctuation at their own places, which transformers knows by number.
PLACES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ",": 1010, ".": 1012, "?": 1029}
PLACES |= {word: i for i, word in enumerate("cat dog red car a ##s tree house ##fish".split(), 1100)}
WORDS = [{i: word for word, i in PLACES.items()}.get(i, f"[unused{i}]") for i in range(1110)]
TEXT = dict(
    vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
    max_position_embeddings=300,
)  # fmt: skip
CHANGES = dict(enc_layers=2, dec_layers=2, num_queries=20, dim_feedforward=64)

#: Makes the authors' network with random weights and saves it as they save theirs.
BUILD = """
import json, os, sys, torch, groundingdino
from groundingdino.models import build_model
from groundingdino.util import get_tokenlizer
from groundingdino.util.slconfig import SLConfig
from transformers import BertConfig, BertModel
folder, changes = sys.argv[1], json.loads(sys.argv[2])
bert = os.path.join(folder, "bert")
package = os.path.dirname(groundingdino.__file__)
config = SLConfig.fromfile(os.path.join(package, "config", "GroundingDINO_SwinT_OGC.py"))
for name, value in changes.items():
    setattr(config, name, value)
config.text_encoder_type = bert
get_tokenlizer.get_pretrained_language_model = lambda path: BertModel(BertConfig.from_pretrained(path))
torch.manual_seed(0)
network = build_model(config)
with torch.no_grad():
    for name, parameter in network.named_parameters():
        if "bbox_embed" in name:
            parameter.normal_(0, 0.05)
        if parameter.ndim == 1 and "gamma" not in name:
            parameter.add_(0.1 * torch.randn_like(parameter))
    network.transformer.decoder.norm.weight.mul_(0.02)  # keeps scores apart
    network.transformer.decoder.norm.bias.mul_(0.02)
tensors = {"module." + name: tensor for name, tensor in network.state_dict().items()}
torch.save({"model": tensors}, os.path.join(folder, "tiny.pth"))
"""

#: The names of transformers' network for those of the authors', in order.
NAMES = [
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"^transformer\.decoder\.ref_point_head", "model.decoder.reference_points_head"),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.enc_out_bbox_embed", "model.encoder_output_bbox_embed"),
    (r"^transformer\.tgt_embed", "model.query_position_embeddings"),
    (r"^transformer\.", "model."),
    (r"^bert\.", "model.text_backbone."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^backbone\.0\.patch_embed\.proj", "model.backbone.conv_encoder.model.embeddings.patch_embeddings.projection"),
    (r"^backbone\.0\.patch_embed\.norm", "model.backbone.conv_encoder.model.embeddings.norm"),
    (r"^backbone\.0\.norm1", "model.backbone.conv_encoder.model.hidden_states_norms.stage2"),
    (r"^backbone\.0\.norm2", "model.backbone.conv_encoder.model.hidden_states_norms.stage3"),
    (r"^backbone\.0\.norm3", "model.backbone.conv_encoder.model.hidden_states_norms.stage4"),
    (r"^backbone\.0\.layers", "model.backbone.conv_encoder.model.encoder.layers"),
    (r"(blocks\.\d+)\.norm1", r"\1.layernorm_before"),
    (r"(blocks\.\d+)\.norm2", r"\1.layernorm_after"),
    (r"(blocks\.\d+)\.attn\.proj", r"\1.attention.output.dense"),
    (r"(blocks\.\d+)\.attn\.rel", r"\1.attention.self.rel"),
    (r"(blocks\.\d+)\.mlp\.fc1", r"\1.intermediate.dense"),
    (r"(blocks\.\d+)\.mlp\.fc2", r"\1.output.dense"),
    (r"gamma_v$", "vision_param"),
    (r"gamma_l$", "text_param"),
    (r"layer_norm_v\.", "layer_norm_vision."),
    (r"layer_norm_l\.", "layer_norm_text."),
    (r"(attn\.(?:\w+_)?)v_proj", r"\1vision_proj"),
    (r"(fusion_layer\.attn\.(?:\w+_)?)l_proj", r"\1text_proj"),
    (r"(deformable_layer)\.norm1", r"\1.self_attn_layer_norm"),
    (r"(deformable_layer)\.norm2", r"\1.final_layer_norm"),
    (r"(text_enhancer_layer)\.norm1", r"\1.layer_norm_before"),
    (r"(text_enhancer_layer)\.norm2", r"\1.layer_norm_after"),
    (r"(decoder\.layers\.\d+)\.cross_attn", r"\1.encoder_attn"),
    (r"(decoder\.layers\.\d+)\.ca_text", r"\1.encoder_attn_text"),
    (r"(decoder\.layers\.\d+)\.catext_norm", r"\1.encoder_attn_text_layer_norm"),
    (r"(decoder\.layers\.\d+)\.norm1", r"\1.encoder_attn_layer_norm"),
    (r"(decoder\.layers\.\d+)\.norm2", r"\1.self_attn_layer_norm"),
    (r"(decoder\.layers\.\d+)\.norm3", r"\1.final_layer_norm"),
    (r"linear(\d)", r"fc\1"),
]  # fmt: skip


def converted(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The authors' tensors under the names of transformers, whose attention has three matrices for one."""
    found = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        for old, new in NAMES:
            name = re.sub(old, new, name)
        match = re.match(r"(.*)\.(?:attn\.qkv\.|(self_attn|encoder_attn_text)\.in_proj_)(weight|bias)$", name)
        if match is None:
            found[name] = tensor
            continue
        place = f"{match[1]}.{match[2] or 'attention.self'}"
        for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
            found[f"{place}.{part}.{match[3]}"] = piece
    return found


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A vocabulary, and with the legacy environment a checkpoint of the authors' network."""
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("groundingdino_py")
    BertConfig(**TEXT).save_pretrained(folder / "bert")
    (folder / "bert" / "vocab.txt").write_text("\n".join(WORDS))
    if (LEGACY / "bin" / "python").exists():
        command = [str(LEGACY / "bin" / "python"), "-I", "-W", "ignore", "-c", BUILD, str(folder), json.dumps(CHANGES)]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def plugin(folder, tmp_path_factory):
    """``plugin(**options)``: the real plugin on the small checkpoint."""
    log = str(tmp_path_factory.mktemp("logs") / "groundingdino_py.log")

    def made(**options):
        known = dict(
            text_encoder=str(folder / "bert"), changes=CHANGES, side=160, max_side=260, environment=str(LEGACY),
            box_threshold=0.0, nms_threshold=None, log=log,
        )  # fmt: skip
        return GroundingDINOPy(options.pop("checkpoint", str(folder / "tiny.pth")), **{**known, **options})

    return made


def pictures(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]


def same(a: Layout, b: Layout, tolerance: float) -> bool:
    assert a.labels == b.labels
    if a.scores is None or b.scores is None:
        return len(a) == len(b) == 0
    torch.testing.assert_close(a.boxes, b.boxes, atol=tolerance, rtol=0)
    torch.testing.assert_close(a.scores, b.scores, atol=tolerance, rtol=0)
    return True


def test_without_tags_nothing_is_found_and_nothing_is_started(tmp_path):
    plugin = GroundingDINOPy(str(tmp_path), environment=str(tmp_path))
    assert [len(x) for x in plugin.detect(pictures((9, 9), (9, 9)), [[], []])] == [0, 0]


def test_without_the_environment_it_says_how_to_get_it(plugin, folder, tmp_path):
    (tmp_path / "some.pth").touch()
    with pytest.raises(
        CheckpointError, match=r"nowhere cannot be used: it is not there. `make legacy` builds it"
    ) as error:
        plugin(checkpoint=str(tmp_path / "some.pth"), environment=str(tmp_path / "nowhere")).detect(
            pictures((160, 160)), [["cat"]]
        )
    assert "groundingdino-py 0.4.0" in str(error.value) and "environment=" in str(error.value)


def test_an_environment_without_the_package_says_so(plugin, tmp_path):
    (tmp_path / "some.pth").touch()
    with pytest.raises(CheckpointError, match="No module named 'groundingdino'.*make legacy"):
        plugin(checkpoint=str(tmp_path / "some.pth"), environment=sys.executable).detect(
            pictures((160, 160)), [["cat"]]
        )


def test_missing_weights_are_named(plugin, tmp_path):
    with pytest.raises(MissingWeights, match="groundingdino_swint_ogc.pth"):
        plugin(checkpoint=str(tmp_path)).detect(pictures((160, 160)), [["cat"]])


def test_labels_are_made_in_one_of_two_ways(plugin):
    with pytest.raises(ValueError, match="labels must be tags or tokens, got 'words'"):
        plugin(labels="words")


class Answers:
    """A worker's answers: two queries for each image, the second one surer, whose tokens lean to the last tag."""

    def __init__(self):
        self.asked = []

    def ask(self, images, captions):
        self.asked.append(len(images))
        found = []
        for caption in captions:
            probabilities = torch.full((2, 256), 0.1)
            probabilities[0, 1], probabilities[1, len(caption) - 3] = 0.5, 0.9
            boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]])
            found.append({"boxes": boxes.numpy(), "probabilities": probabilities.numpy()})
        return found


def test_labels_are_the_tags_however_many_and_the_surest_is_first(plugin):
    made = plugin(box_threshold=0.2, batch_size=2)
    made.__dict__["_worker"] = answers = Answers()
    images = pictures((20, 30), (20, 30), (30, 20), (20, 30), (30, 20), (20, 30))
    found = made.detect(images, [["Cat", "red car"], ["dog"], [], ["dog"], ["dog"], ["dog"]])
    assert [x.labels for x in found] == [["red car", "Cat"], ["dog"] * 2, [], ["dog"] * 2, ["dog"] * 2, ["dog"] * 2]
    assert found[0].scores.tolist() == pytest.approx([0.9, 0.5]) and found[0].boxes[0].tolist() == [0.5, 0.5, 1, 1]
    assert answers.asked == [1, 2, 1, 1], "images of one size with one caption go together"
    (many,) = made.detect(images[:1], [[f"{'a ' * i}cat" for i in range(40)]])
    assert sum(answers.asked[4:]) > 1 and len(set(many.labels)) > 2, "what does not fit one prompt is asked in several"


def test_tokens_above_the_threshold_are_the_label_if_that_is_wanted(plugin):
    made = plugin(labels="tokens", separator=", ", box_threshold=0.2)
    made.__dict__["_worker"] = Answers()
    (found,) = made.detect(pictures((20, 30)), [["cat", "dogs"]])
    assert found.labels == ["##s", "cat"]


@needs_legacy
def test_the_authors_network_does_not_see_its_batch(plugin):
    made = plugin()
    images = pictures((160, 200), (160, 200), (230, 170), (160, 200), (160, 200))
    tags = [["cat", "red car"], ["dog"], ["tree", "a house", "cats"], [], ["cat", "red car"]]
    together = made.detect(images, tags)
    assert [len(x) for x in together] == [20, 20, 20, 0, 20]
    assert set(together[0].labels) <= {"cat", "red car"} and set(together[1].labels) == {"dog"}
    for image, some, found in zip(images, tags, together, strict=True):
        assert same(made.detect([image], [some])[0], found, 1e-4)
        assert same(made.detect([image], [some])[0], made.detect([image], [some])[0], 0.0)


@needs_legacy
@pytest.mark.parametrize("options", [{}, {"labels": "tokens", "separator": ", ", "text_threshold": 0.5}], ids=str)
def test_the_authors_network_and_that_of_transformers_find_the_same(plugin, folder, tmp_path, options):
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=224, window_size=7, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24],
            out_indices=[2, 3, 4],
        ),
        text_config=BertConfig(**TEXT), encoder_layers=2, decoder_layers=2, num_queries=20, encoder_ffn_dim=64,
        decoder_ffn_dim=64,
    )  # fmt: skip
    network = GroundingDinoForObjectDetection(config)
    network.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    tensors = converted(torch.load(folder / "tiny.pth", weights_only=True)["model"])
    saved = load_file(tmp_path / "model.safetensors")
    lacking = {name for name in saved if name not in tensors}
    assert all("swin.layernorm" in name for name in lacking), lacking  # transformers has it, and does not use it
    tensors = {name: tensors.get(name, saved[name]).contiguous() for name in saved}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    size = {"shortest_edge": 160, "longest_edge": 260}
    tokenizer = BertTokenizer.from_pretrained(folder / "bert")
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=size), tokenizer).save_pretrained(tmp_path)

    images, tags = pictures((160, 200), (240, 160)), [["cat", "red car"], ["dog", "a house", "trees"]]
    known = dict(box_threshold=0.0, nms_threshold=None, **options)
    theirs = plugin(**known).detect(images, tags)
    ours = GroundingDINO(str(tmp_path), pad_to=1, **known).detect(images, tags)
    for a, b in zip(theirs, ours, strict=True):
        assert len(a) == 20 and same(a, b, 2e-4)


@needs_legacy
def test_a_checkpoint_of_something_else_is_refused(plugin, tmp_path):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="lacks .* weights of GroundingDINO_SwinT_OGC"):
        plugin(checkpoint=str(tmp_path / "other.pth")).detect(pictures((160, 160)), [["cat"]])
    torch.save({"model": WorkerError("code")}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="UnpicklingError"):
        plugin(checkpoint=str(tmp_path / "code.pth")).detect(pictures((160, 160)), [["cat"]])
