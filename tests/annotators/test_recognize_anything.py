import sys
import sysconfig
import venv

import pytest
import torch

from scenewright.annotators.taggers.recognize_anything import RecognizeAnything
from scenewright.checkpoints import CheckpointError, MissingWeights

#: A package that is built, filled and asked as recognize-anything is, around a network of three numbers.
FAKE = {
    "ram/__init__.py": "",
    "ram/transform.py": """
from torchvision.transforms import Compose, Normalize, Resize, ToTensor

def get_transform(image_size=384):
    return Compose([Resize((image_size, image_size)), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
""",
    "ram/models/utils.py": """
from transformers import BertTokenizer

def init_tokenizer():
    return BertTokenizer.from_pretrained("bert-base-uncased")
""",
    "ram/models/__init__.py": """
import torch
from ram.models.utils import init_tokenizer

class Network(torch.nn.Module):
    def __init__(self, image_size, vit):
        super().__init__()
        assert image_size in (224, 384) and vit in ("swin_b", "swin_l")
        self.tokenizer = init_tokenizer()
        assert self.tokenizer.convert_tokens_to_ids("dog") == 5, "another vocabulary than the one that was given"
        self.fc = torch.nn.Linear(3, 3)
        self.tag_encoder = torch.nn.Linear(1, 1)

    def generate_tag(self, images):
        assert not self.training and images.shape[1:] == (3, 384, 384)
        above = self.fc(images.mean((2, 3))) > 0
        english = [" | ".join(t for t, yes in zip(["red thing", "green", "blue"], row) if yes) for row in above]
        return english, ["?"] * len(english)

def ram_plus(pretrained="", image_size=384, vit="base"):
    network = Network(image_size, vit)
    print("load checkpoint from", pretrained)
    tensors = torch.load(pretrained, map_location="cpu")["model"]
    tensors = {name.replace("vision_multi", "tagging_head"): tensor for name, tensor in tensors.items()}
    network.load_state_dict(tensors, strict=False)
    return network

ram = ram_plus
""",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """An environment of this interpreter's packages with the fake one, a vocabulary and a checkpoint."""
    folder = tmp_path_factory.mktemp("recognize_anything")
    for name, text in FAKE.items():
        (folder / "packages" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "packages" / name).write_text(text)
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    (packages,) = folder.glob("environment/lib/python*/site-packages")
    paths = [str(folder / "packages"), sysconfig.get_paths()["purelib"]]
    (packages / "fake.pth").write_text("\n".join(paths))
    (folder / "bert").mkdir()
    (folder / "bert" / "vocab.txt").write_text("\n".join("[PAD] [UNK] [CLS] [SEP] [MASK] dog".split()))
    tensors = {"fc.weight": torch.eye(3), "fc.bias": torch.zeros(3), "text_decoder.x": torch.ones(2)}
    torch.save({"model": tensors}, folder / "ram_plus_swin_large_14m.pth")
    return folder


@pytest.fixture
def plugin(folder, tmp_path):
    """``plugin(**options)``: the real plugin and its real worker, around the fake package."""

    def made(**options):
        known = dict(text_encoder=str(folder / "bert"), environment=str(folder / "environment"))
        return RecognizeAnything(
            options.pop("checkpoint", str(folder)), log=str(tmp_path / "log"), **{**known, **options}
        )

    return made


def image_of(red: int, green: int, blue: int, height: int = 20, width: int = 30) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8)[:, None, None].expand(3, height, width).contiguous()


def test_no_images_have_no_tags(tmp_path):
    assert RecognizeAnything(str(tmp_path), environment=str(tmp_path)).tag([]) == []


@pytest.mark.slow
def test_tags_come_in_the_packages_order_whatever_the_batch(plugin, tmp_path):
    images = [image_of(255, 0, 255), image_of(0, 0, 0, 99, 7), image_of(0, 200, 0, 400, 400), image_of(255, 255, 255)]
    expected = [["red thing", "blue"], [], ["green"], ["red thing", "green", "blue"]]
    made = plugin(batch_size=3)
    assert made.tag(images) == expected
    assert [made.tag([image])[0] for image in images] == expected
    assert "load checkpoint from" in (tmp_path / "log").read_text()


def test_without_the_environment_or_the_package_it_says_how_to_get_them(plugin, tmp_path):
    for environment, reason in ((tmp_path / "nowhere", "it is not there"), (sys.executable, "No module named 'ram'")):
        with pytest.raises(CheckpointError, match="cannot be used") as error:
            plugin(environment=str(environment)).tag([image_of(0, 0, 0)])
        for word in (
            reason,
            "`make legacy` builds it",
            "-m pip install --no-deps git+https://github.com/xinyu1205/recognize-anything`",
        ):
            assert word in str(error.value)


def test_missing_weights_are_named(plugin, tmp_path):
    with pytest.raises(MissingWeights, match="ram_plus_swin_large_14m.pth"):
        plugin(checkpoint=str(tmp_path)).tag([image_of(0, 0, 0)])


@pytest.mark.parametrize(
    "content,reason",
    [
        ({"model": {"fc.weight": torch.eye(3)}}, "lacks 1 of 2 weights of ram_plus: fc.bias"),
        ({"model": {"a": pytest.approx}}, "UnpicklingError"),
    ],
)
@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_refused(plugin, tmp_path, content, reason):
    torch.save(content, tmp_path / "ram_plus_swin_large_14m.pth")
    with pytest.raises(CheckpointError, match=reason):
        plugin(checkpoint=str(tmp_path)).tag([image_of(0, 0, 0)])


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="model must be one of ram_plus, ram, got 'tag2text'"):
        RecognizeAnything(model="tag2text")
