"""What tests share: an offline machine, small pictures, and the configurations as users compose them."""

import io
import json
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import settings
from omegaconf import DictConfig
from PIL import Image as PILImage
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]

#: What the tiny CLIP knows as whole words; it spells all others.
WORDS = ("a", "red", "blue", "dog", "cat", "photo", "of", "background")

#: Where BERT has them; Grounding DINO knows its borders by these ids.
BERT_MARKS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ",": 1010, ".": 1012, "?": 1029}

#: What the tests' Grounding DINO can read.
DINO_WORDS = "cat dog red bus arm ##chair remote control tree t - shirt st bernard".split()


# how long an example takes says more about the machine than about the code
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection that leaves this machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test wants to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Two tests run at once on two cores; so for the commands that they start."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def config() -> Callable[..., DictConfig]:
    """``config("annotate", "dataset=shapes", …)`` composes a configuration as an entrypoint does."""

    def composed(name: str, *overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(name, list(overrides))

    return composed


@pytest.fixture
def golden() -> Callable[[str], tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """``golden("ram/ram")``: a fixture's JSON and its tensors, from ``tests/golden`` or from SCENEWRIGHT_GOLDEN."""

    def read(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        path = Path(os.environ.get("SCENEWRIGHT_GOLDEN", ROOT / "tests" / "golden")) / name
        about, tensors = (path.with_name(path.name + suffix) for suffix in (".json", ".safetensors"))
        return json.loads(about.read_text()) if about.exists() else {}, load_file(tensors) if tensors.exists() else {}

    return read


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """``picture("PNG", size=(40, 30), mode="RGB", seed=0)``: an image file's bytes; ``size`` is width, height."""

    def encoded(
        kind: str = "JPEG", size: tuple[int, int] = (40, 30), mode: str = "RGB", seed: int = 0, **save: Any
    ) -> bytes:
        # smooth, so that JPEG keeps it
        x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
        phase = np.random.default_rng(seed).random(3)
        planes = [127.5 + 127.5 * np.sin(3 * (x * (p + 0.5) + y * (1 - p) + p)) for p in phase]
        file = io.BytesIO()
        PILImage.fromarray(np.stack(planes, -1).astype(np.uint8)).convert(mode).save(file, kind, **save)
        return file.getvalue()

    return encoded


@pytest.fixture(scope="session")
def tiny_clip() -> Callable[..., str]:
    """``tiny_clip(folder, scale=4.6052, words=WORDS)``: a CLIP of two small random towers, saved; its path."""
    return _tiny_clip


def _tiny_clip(folder: Path, scale: float = 4.6052, words: Sequence[str] = WORDS) -> str:
    """A CLIP of two small random towers, saved as transformers saves it."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(x) for x in range(33, 127)]
    parts = letters + [f"{x}</w>" for x in letters]
    merges = []
    for word in words:
        for i in range(1, len(word)):
            left, right = word[:i], word[i] + ("</w>" if i == len(word) - 1 else "")
            if f"{left} {right}" not in merges:
                merges.append(f"{left} {right}")
                parts.append(left + right)
    vocabulary = {x: i for i, x in enumerate(dict.fromkeys([*parts, "<|startoftext|>", "<|endoftext|>"]))}
    files = folder / "vocab.json", folder / "merges.txt"
    folder.mkdir(exist_ok=True)
    files[0].write_text(json.dumps(vocabulary))
    files[1].write_text("\n".join(["#version: 0.2", *merges]))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**tower, **marks, "vocab_size": len(tokenizer), "max_position_embeddings": 20},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        logit_scale_init_value=scale,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CLIPModel(config)
        for parameter in network.parameters():  # larger than at the start of training, so that answers differ
            if parameter.ndim > 1:
                parameter.data.normal_(0, 0.2)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    network.save_pretrained(folder)
    CLIPProcessor(CLIPImageProcessor(**size), tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_sam() -> Callable[[Path], str]:
    """``tiny_sam(folder)``: a SAM of random weights that sees images at 64 pixels, saved; its path."""
    return _tiny_sam


def _tiny_sam(folder: Path) -> str:
    from transformers import SamConfig, SamImageProcessor, SamModel

    side = 64
    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": side, "patch_size": 8, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16}
    prompt = {"hidden_size": 32, "image_size": side, "patch_size": 8, "mask_input_channels": 8}
    decoder = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 8, "iou_head_hidden_dim": 16}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(6)
        config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
        model = SamModel(config)
        for weight in model.parameters():
            if weight.ndim > 1:  # the usual beginnings are too small to show anything
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    SamImageProcessor(size={"longest_edge": side}, pad_size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_groundingdino() -> Callable[..., Path]:
    """``tiny_groundingdino(folder, limit=256)``: Grounding DINO of random weights, saved; its path.

    It knows the words of ``DINO_WORDS``, and ``limit`` tokens at once.
    """
    return _tiny_groundingdino


def _tiny_groundingdino(folder: Path, limit: int = 256) -> Path:
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    vocabulary = {f"[unused{i}]": i for i in range(1, 1040)}
    vocabulary = {word: i for word, i in vocabulary.items() if i not in BERT_MARKS.values()} | BERT_MARKS
    vocabulary |= {word: 1040 + i for i, word in enumerate(DINO_WORDS)}
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, out_indices=[2, 3, 4]
        ),
        text_config=BertConfig(
            vocab_size=1100, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=20,
        max_text_len=limit,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = GroundingDinoForObjectDetection(config)
        for parameter in made.parameters():  # the default weights are too small for scores to differ
            parameter.data += 0.2 * torch.randn_like(parameter)
    made.save_pretrained(folder)
    processor = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(processor, BertTokenizer(vocab=vocabulary, do_lower_case=True)).save_pretrained(folder)
    return folder
