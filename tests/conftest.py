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
from omegaconf import DictConfig
from PIL import Image as PILImage
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]

#: What the tiny CLIP knows as whole words; it spells all others.
WORDS = ("a", "red", "blue", "dog", "cat", "photo", "of", "background")


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
    """Two tests run at once on two cores."""
    torch.set_num_threads(1)


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
