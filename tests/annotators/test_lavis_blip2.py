import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scenewright.annotators.captioners.lavis_blip2 import LavisBLIP2
from scenewright.annotators.isolation import legacy
from scenewright.checkpoints import CheckpointError, MissingWeights
from scenewright.layout import Layout

LEGACY = Path(os.environ.get("SCENEWRIGHT_LEGACY", Path(__file__).parents[2] / ".venv-legacy"))
needs_legacy = pytest.mark.skipif(not (LEGACY / "bin" / "python").exists(), reason="`make legacy` was not run")

WORKER = Path(legacy.__file__).with_name("workers") / "lavis_blip2.py"
CHANGES = {
    "vision": {"embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
    "qformer": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50,
    },
}  # fmt: skip

#: Makes LAVIS's network with random weights and saves its parts as they are published: in three places.
BUILD = """
import importlib.util, json, os, sys, torch
folder, path, changes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
spec = importlib.util.spec_from_file_location("worker", path)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
from lavis.models.blip2_models.modeling_t5 import T5ForConditionalGeneration
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import T5Config, T5TokenizerFast
words = ["<pad>", "</s>", "<unk>", "Describe", "the", "dog"] + ["word%d" % i for i in range(40)]
tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
special = dict(extra_ids=0, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
language = os.path.join(folder, "t5")
T5TokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(language)
torch.manual_seed(0)
config = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, initializer_factor=2.0,
                  feed_forward_proj="gated-gelu", tie_word_embeddings=False, decoder_start_token_id=0)
T5ForConditionalGeneration(config).save_pretrained(language)
settings = {"image_size": 28, "changes": changes, "language": language}
encoder = worker.vision(settings)
network = worker.build(settings, encoder)
with torch.no_grad():
    for name, parameter in network.named_parameters():
        if not name.startswith("t5_model."):
            parameter.normal_(0, 0.3)
    network.t5_proj.weight.mul_(5)
torch.save(encoder.state_dict(), os.path.join(folder, "eva_vit_g.pth"))
apart = ("visual_encoder.", "t5_model.")
tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(apart)}
torch.save({"model": tensors}, os.path.join(folder, "blip2.pth"))
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Files that are as the published ones where the legacy environment can make them, else empty ones."""
    folder = tmp_path_factory.mktemp("lavis_blip2")
    for name in ("blip2.pth", "eva_vit_g.pth"):
        (folder / name).touch()
    (folder / "t5").mkdir()
    (folder / "t5" / "config.json").touch()
    if (LEGACY / "bin" / "python").exists():
        command = [str(LEGACY / "bin" / "python"), "-I", "-W", "ignore", "-c", BUILD]
        subprocess.run([*command, str(folder), str(WORKER), json.dumps(CHANGES)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def plugin(folder, tmp_path_factory):
    """``plugin(**options)``: the real plugin on the small checkpoint."""
    log = str(tmp_path_factory.mktemp("logs") / "lavis_blip2.log")

    def made(**options):
        known = dict(
            filename="blip2.pth", language=str(folder / "t5"), changes=CHANGES, image_size=28, min_area=0,
            max_new_tokens=6, environment=str(LEGACY), log=log,
        )  # fmt: skip
        return LavisBLIP2(options.pop("checkpoint", str(folder)), **{**known, **options})

    return made


def pictures(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [torch.randint(0, 256, (3, 1, 1), dtype=torch.uint8).expand(3, *size).contiguous() for size in sizes]


def layouts(*labels: list[str]) -> list[Layout]:
    box = torch.tensor([[0.1, 0.2, 0.9, 0.8]])
    return [Layout(box.expand(len(some), 4), some) for some in labels]


class Answers:
    """A worker's answers: the size of each crop and its prompt."""

    def __init__(self):
        self.asked = []

    def ask(self, crops, prompts):
        self.asked.append(len(crops))
        return [f"{crop.shape[2]} by {crop.shape[1]} {text}" for crop, text in zip(crops, prompts, strict=True)]


def test_without_regions_nothing_is_said_and_nothing_is_started(tmp_path):
    plugin = LavisBLIP2(str(tmp_path), environment=str(tmp_path))
    assert plugin.caption([], []) == [] and plugin.caption(pictures((9, 9)), [Layout.empty()]) == [[]]


def test_crops_of_all_images_are_asked_about_together_and_small_ones_are_not(plugin):
    made = plugin(prompt="Describe the {label}", batch_size=3, min_area=100, clean=False)
    made.__dict__["_worker"] = answers = Answers()
    found = made.caption(pictures((20, 50), (10, 10), (40, 40)), [*layouts(["dog", "cat"], ["tiny"]), Layout.whole()])
    assert found == [["40 by 12 Describe the dog", "40 by 12 Describe the cat"], ["tiny"], ["40 by 40 "]]
    assert answers.asked == [3]


def test_without_the_environment_it_says_how_to_get_it(plugin, tmp_path):
    with pytest.raises(
        CheckpointError, match="nowhere cannot be used.*`make legacy` builds it.*salesforce-lavis 1.0.2"
    ):
        plugin(environment=str(tmp_path / "nowhere")).caption(pictures((9, 9)), layouts(["a"]))


def test_an_environment_without_the_package_says_so(plugin):
    with pytest.raises(CheckpointError, match="No module named 'lavis'.*make legacy"):
        plugin(environment=sys.executable).caption(pictures((9, 9)), layouts(["a"]))


def test_missing_weights_are_named(plugin, tmp_path):
    (tmp_path / "blip2.pth").touch()
    with pytest.raises(MissingWeights, match="has no eva_vit_g.pth; it must hold blip2.pth, eva_vit_g.pth"):
        plugin(checkpoint=str(tmp_path)).caption(pictures((9, 9)), layouts(["a"]))


@needs_legacy
def test_lavis_describes_each_crop_whatever_its_batch(plugin):
    images, regions = pictures((60, 80), (30, 90), (50, 50)), [*layouts(["a", "b"], []), Layout.whole()]
    options = dict(clean=False, prompt="Describe the dog")
    found = plugin(**options).caption(images, regions)
    assert [len(x) for x in found] == [2, 0, 1] and found[0][0] != found[2][0]
    assert all(text and len(text.split()) <= 6 for some in found for text in some)
    assert plugin(**options, batch_size=1).caption(images, regions) == found


@needs_legacy
def test_lavis_says_what_it_says_when_it_is_called_plainly(plugin, folder):
    """The same files read by LAVIS's own class in its own process, without any of our code but the layers' sizes."""
    (image,) = pictures((40, 30))
    script = """
import importlib.util, json, sys, torch
from PIL import Image
spec = importlib.util.spec_from_file_location("worker", sys.argv[2])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
folder, changes, colour = sys.argv[1], json.loads(sys.argv[3]), json.loads(sys.argv[4])
settings = {"image_size": 28, "changes": changes, "language": folder + "/t5"}
network = worker.build(settings, worker.vision(settings))
network.visual_encoder.load_state_dict(torch.load(folder + "/eva_vit_g.pth"))
network.load_from_pretrained(folder + "/blip2.pth")
picture = worker.BlipImageEvalProcessor(image_size=28)(Image.new("RGB", (30, 40), tuple(colour)))
samples = {"image": picture[None], "prompt": ""}
print("SAID", network.float().eval().generate(samples, num_beams=5, max_length=6)[0])
"""
    command = [str(LEGACY / "bin" / "python"), "-I", "-W", "ignore", "-c", script, str(folder), str(WORKER)]
    colour = json.dumps(image[:, 0, 0].tolist())
    said = subprocess.run([*command, json.dumps(CHANGES), colour], check=True, capture_output=True, text=True).stdout
    ((caption,),) = plugin(clean=False).caption([image], [Layout.whole()])
    assert f"SAID {caption}" in said


@needs_legacy
def test_a_checkpoint_of_something_else_is_refused(plugin, folder, tmp_path):
    for name in ("blip2.pth", "eva_vit_g.pth"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "blip2.pth")
    with pytest.raises(CheckpointError, match="lacks .* weights of BLIP2"):
        plugin(checkpoint=str(tmp_path)).caption(pictures((9, 9)), layouts(["a"]))
