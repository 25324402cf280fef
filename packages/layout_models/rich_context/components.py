"""The parts of a Stable Diffusion, and the weights of regional layers, from wherever they are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scenewright.checkpoints import PIPELINE_FILES, Checkpoint, CheckpointError, MissingWeights, check, read_tensors
from scenewright.layout_models.checkpoint import read_weights
from scenewright.layout_models.rich_context import adapter as adapters

#: The classes of the parts, and the file that holds their weights.
_PARTS = {
    "tokenizer": ("transformers.CLIPTokenizer", ""),
    "tokenizer_2": ("transformers.CLIPTokenizer", ""),
    "text_encoder": ("transformers.CLIPTextModel", "model"),
    "text_encoder_2": ("transformers.CLIPTextModelWithProjection", "model"),
    "vae": ("diffusers.AutoencoderKL", "diffusion_pytorch_model"),
    "unet": ("diffusers.UNet2DConditionModel", "diffusion_pytorch_model"),
}

_INDEX, _SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"

#: Of all LoRA layers, in the names that PEFT gives them.
_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class StableDiffusion:
    """Where the parts of a pipeline come from.

    Attributes:
        base: a folder or hub id in diffusers' layout.
        revision: of the base.
        unet: another folder or hub id that the UNet is taken from, of a pipeline or of a UNet alone.
        unet_revision: of that.
        vae: the same for the autoencoder.
        vae_revision: of that.
        variant: of the files of base and UNet: "fp16" for those with such a name.
        towers: text encoders of the base, 1 or 2; None if that is not known before it is opened.
    """

    base: str
    revision: str = "main"
    unet: str | None = None
    unet_revision: str = "main"
    vae: str | None = None
    vae_revision: str = "main"
    variant: str | None = None
    towers: int | None = None

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """What must be there: the base, and what parts are taken from elsewhere."""
        own = [x for x in _PARTS if not getattr(self, x, None) and (self.towers == 2 or not x.endswith("_2"))]
        files = [file for name in own for file in self._files(name, f"{name}/")]
        files = PIPELINE_FILES if self.towers is None else (_INDEX, _SCHEDULER, *files)
        found = [Checkpoint(self.base, self.revision, files)]
        for name, usual in (("unet", "unet/"), ("vae", "")):
            source, revision = getattr(self, name), getattr(self, f"{name}_revision")
            if source:
                folders = [usual, *({f"{name}/", ""} - {usual})]
                here = [x for x in folders if (Path(source).expanduser() / x / "config.json").exists()]
                found.append(Checkpoint(source, revision, self._files(name, (here or [usual])[0])))
        return found

    def index(self) -> dict[str, Any]:
        """What the base says of itself.

        Raises:
            MissingWeights: parts are not there; one paragraph names all.
        """
        check({"layout_model": self})
        return json.loads(Checkpoint(self.base, self.revision, (_INDEX,)).path().read_text())

    def load(self, dtype: torch.dtype | None = None, **given: Any) -> dict[str, Any]:
        """All parts, on the CPU, by the names that diffusers' pipelines know them by.

        Args:
            dtype: of the networks; as their files have it, if not given.
            given: parts that are there already.

        Raises:
            MissingWeights: they are not there; one paragraph names all that are missing, before anything is read.
            CheckpointError: they cannot be read, or are of another kind.
        """
        index = self.index()
        if "scheduler" not in given:
            given["scheduler"] = self._load_scheduler()
        for name in _PARTS:
            if name not in given and (index.get(name) or [None])[0] is not None:
                given[name] = self._load(name, dtype)
        return given

    def _load(self, name: str, dtype: torch.dtype | None) -> Any:
        import importlib

        library, kind = _PARTS[name][0].split(".")
        source = getattr(self, name, None) or self.base
        revision = getattr(self, f"{name}_revision") if getattr(self, name, None) else self.revision
        folder = f"{name}/" if source == self.base else _folder(source, revision, name)
        options: dict[str, Any] = {"subfolder": folder.rstrip("/")} if folder else {}
        if _PARTS[name][1]:
            # transformers reads None as float32
            options["dtype"] = dtype or ("auto" if library == "transformers" else None)
            options |= {"variant": self.variant} if self.variant and source != self.vae else {}
        checkpoint = Checkpoint(source, revision, self._files(name, folder))
        return checkpoint.load(getattr(importlib.import_module(library), kind), **options)

    def _load_scheduler(self) -> Any:
        import diffusers

        config = Checkpoint(self.base, self.revision, (_SCHEDULER,)).path()
        settings = json.loads(config.read_text())
        kind = getattr(diffusers, settings.get("_class_name", ""), None)
        if kind is None:
            raise CheckpointError(f"{config} names no scheduler of diffusers, but {settings.get('_class_name')!r}")
        return kind.from_config(settings)

    def _files(self, name: str, folder: str) -> tuple[str, ...]:
        weights = _PARTS[name][1]
        if not weights:
            return (f"{folder}tokenizer_config.json", f"{folder}vocab.json", f"{folder}merges.txt")
        variant = f".{self.variant}" if self.variant and not (name == "vae" and self.vae) else ""
        return (f"{folder}config.json", f"{folder}{weights}{variant}.safetensors")


def _folder(source: str, revision: str, name: str) -> str:
    """In which folder of a repository a part is: in that of its name, or it is the repository's only one."""
    faults = []
    for folder in ("", f"{name}/") if name == "vae" else (f"{name}/", ""):
        try:
            Checkpoint(source, revision, (f"{folder}config.json",)).path()
            return folder
        except MissingWeights as error:
            faults.append(error)
    raise faults[0]


def read_adapter(source: str | Path, revision: str = "main", variant: str | None = None) -> dict[str, Tensor]:
    """The weights of regional layers, and of LoRA if there are any, by their names in the UNet.

    Args:
        source: a folder of ``save_adapter``; a training run, or one of its checkpoints, whose average is read where
            there is one; a pipeline or a UNet that has such layers; a file of one of these; or the hub id of one.
        revision: on the hub.
        variant: of the files of a pipeline or a UNet, such as "fp16".

    Raises:
        MissingWeights: there is nothing of the kind.
        CheckpointError: it cannot be read, or holds no regional layers.
    """
    path = Path(source).expanduser()
    if path.is_file():
        files = [path]
    elif path.is_dir() and any((path / x).exists() for x in ("checkpoints", "weights.safetensors", "ema.safetensors")):
        return _named(read_weights(path), source)
    else:
        files = _adapter_files(Checkpoint(str(source), revision, PIPELINE_FILES), variant)
    found: dict[str, Tensor] = {}
    for file in files:
        found |= _wanted(file)
    return _named(found, source)


def _adapter_files(checkpoint: Checkpoint, variant: str | None) -> list[Path]:
    """The files of a folder or repository that may hold regional layers."""
    kind = f".{variant}" if variant else ""
    name = f"diffusion_pytorch_model{kind}"
    files = (adapters.WEIGHTS, f"diffusion_pytorch_model.safetensors.index{kind}.json", f"{name}.safetensors")
    places = [replace(checkpoint, files=(folder + file,)) for folder in ("", "unet/") for file in files]
    if not checkpoint.is_local and not any(x.commit for x in places):
        checkpoint.check()  # nothing of it is on this machine, so the hub must have it; asked once, not for each file
    for place in places:
        try:
            found = place.path()
        except MissingWeights:
            continue
        if found.suffix != ".json":
            return [found]
        table: Mapping[str, str] = json.loads(found.read_text())["weight_map"]
        shards = sorted({shard for key, shard in table.items() if _is_ours(key)})
        folder = place.files[0].removesuffix(files[1])
        return [replace(checkpoint, files=(folder + x,)).path() for x in shards]
    raise MissingWeights(
        f"{checkpoint.name} has neither {adapters.WEIGHTS} nor unet/{name}.safetensors; an adapter is a folder of "
        "save_adapter, a training run, a pipeline with regional layers, or a file of one of these",
        checkpoint,
    )


def _wanted(file: Path) -> dict[str, Tensor]:
    """What is ours in a file; of a whole UNet the rest is not even read."""
    if file.suffix != ".safetensors":
        return read_tensors(file)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys() if _is_ours(name)}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error


def _is_ours(name: str) -> bool:
    return adapters.is_adapter(name.removeprefix("unet.")) or _DOWN in name or _UP in name


def _named(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    found = {name.removeprefix("unet."): x for name, x in tensors.items() if _is_ours(name)}
    if not any(adapters.is_adapter(name) for name in found):
        raise CheckpointError(
            f"{source} holds no regional layers: no tensor has '.fuser.' in its name or begins with position_net"
        )
    first, null = "position_net.linears.0.weight", "position_net.null_text_feature"
    if null not in found and first in found:  # it is not trained, so a run does not save it
        found[null] = found[first].new_zeros(found[first].shape[1])
    return found


def merge_lora(unet: Any, tensors: Mapping[str, Tensor]) -> None:
    """Add what LoRA learnt to the matrices that it learnt it for; of one's own kind, whose scale is 1.

    Raises:
        CheckpointError: the UNet has no such matrices.
    """
    names = lora_names(tensors)
    missing = [name for name in names if f"{name}.weight" not in unet.state_dict().keys()]
    if missing:
        raise CheckpointError(f"LoRA was trained for another base; {len(missing)} matrices are missing: {missing[0]}")
    with torch.no_grad():
        for name in names:
            weight = unet.get_parameter(f"{name}.weight")
            change = tensors[name + _UP].float() @ tensors[name + _DOWN].float()
            weight.copy_(weight.float() + change.to(weight.device))


def lora_names(tensors: Iterable[str]) -> list[str]:
    """The names of the matrices that LoRA layers belong to."""
    return [name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)]
