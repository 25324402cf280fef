"""Where a plugin's weights come from: a folder, a file or a model hub, found without surprises.

Weights are read as safetensors or with ``weights_only=True``; no code that comes with them
is ever run.
"""

import inspect
import logging
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

#: What a model of transformers consists of, for messages.
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")


class CheckpointError(ValueError):
    """Weights that cannot be used. It is about the run, not about one image: nothing goes on without them."""


class MissingWeights(CheckpointError):
    """Weights that are not there."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder, a file, or a repository of the Hugging Face hub at one revision.

    Attributes:
        name: a path, or a hub id ("facebook/sam2.1-hiera-small").
        revision: a branch, tag or commit of the hub's repository; a path has none.
        files: what is needed of it; the first one tells whether it is there.
    """

    name: str
    revision: str = "main"
    files: tuple[str, ...] = MODEL_FILES

    @property
    def is_local(self) -> bool:
        return Path(self.name).expanduser().exists()

    @property
    def commit(self) -> str | None:
        """The hub's commit that is on this machine; None for a path, and for what is not here."""
        found = self._cached(self.files[0])
        # .../snapshots/COMMIT/FILE
        return None if found is None else found.parts[found.parts.index("snapshots") + 1]

    def check(self) -> None:
        """Make sure that it is here or can be fetched, without loading it.

        Raises:
            MissingWeights: it is not here, and the hub does not give it.
        """
        if self.is_local:
            path = Path(self.name).expanduser()
            if path.is_dir() and not (path / self.files[0]).exists():
                raise MissingWeights(f"the folder {path} has no {self.files[0]}; it must hold {self._listed}")
        elif self._cached(self.files[0]) is None:
            self._ask_hub()

    def load(self, kind: Any, **options: Any) -> Any:
        """``kind.from_pretrained`` of it: from this machine if it is here, else from the hub.

        Args:
            kind: a class of transformers or diffusers.
            options: passed on.

        Raises:
            MissingWeights: it is not here, and the hub does not give it.
            CheckpointError: it is not a checkpoint of this kind.
        """
        self.check()
        source = str(Path(self.name).expanduser()) if self.is_local else self.name
        try:
            return _from_pretrained(kind, source, self.revision, **options)
        except pickle.UnpicklingError as error:
            raise CheckpointError(_refused(source)) from error
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
            what = " ".join(str(error).split())[:300]
            wants = f"{kind.__name__} needs {self._listed}"
            raise CheckpointError(
                f"{self._full_name} cannot be loaded: {type(error).__name__}: {what}; {wants}"
            ) from error

    def path(self, filename: str | None = None) -> Path:
        """The path of one of its files, fetched from the hub if need be.

        Args:
            filename: one of ``files``; the first one if not given. A ``name`` that is a file is that file.

        Raises:
            MissingWeights: it is not here, and the hub does not give it.
        """
        filename = filename or self.files[0]
        if self.is_local:
            local = Path(self.name).expanduser()
            found = local / filename if local.is_dir() else local
            if not found.exists():
                raise MissingWeights(f"the folder {local} has no {filename}; it must hold {self._listed}")
            return found
        found = self._cached(filename)
        if found is None:
            from huggingface_hub import hf_hub_download

            self._ask_hub()
            try:
                found = Path(hf_hub_download(self.name, filename, revision=self.revision))
            except OSError as error:
                raise self._missing(error) from error
        return found

    @property
    def _full_name(self) -> str:
        return self.name if self.is_local else f"{self.name} (revision {self.revision})"

    @property
    def _listed(self) -> str:
        return ", ".join(self.files)

    def _cached(self, filename: str) -> Path | None:
        """A file in the hub's cache on this machine."""
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        if self.is_local:
            return None
        try:
            found = try_to_load_from_cache(self.name, filename, revision=self.revision)
        except HFValidationError:
            return None
        return Path(found) if isinstance(found, str) else None

    def _ask_hub(self) -> None:
        """Ask once, so that a machine without network hears it at once and not after many retries."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HFValidationError

        try:
            if constants.is_offline_mode():
                raise OSError("HF_HUB_OFFLINE is set")
            HfApi().model_info(self.name, revision=self.revision, timeout=10)
        except HFValidationError as error:
            raise MissingWeights(f"{self.name} is no file or folder here, and no id of a hub either") from error
        except Exception as error:  # whatever the client's transport raises
            raise self._missing(error) from error

    def _missing(self, error: Exception) -> MissingWeights:
        from huggingface_hub import constants

        reason = " ".join(str(error).split())[:200]
        return MissingWeights(
            f"the weights {self._full_name} are not on this machine, and the hub does not give them ({reason}). "
            f"Needed are {self._listed}. Where there is a network, run `hf download {self.name} --revision "
            f"{self.revision}`; then either copy the folder it prints here and set checkpoint= to it, or copy "
            f"models--{self.name.replace('/', '--')} of its cache into {constants.HF_HUB_CACHE}."
        )


def checkpoints_of(plugin: Any) -> Iterator[Checkpoint]:
    """The checkpoints that a plugin will load, and those of plugins that were injected into it.

    They are its attribute ``checkpoints`` if it has one, else ``checkpoint`` and ``revision``.
    """
    declared = getattr(plugin, "checkpoints", None)
    if declared is not None:
        yield from declared
    elif isinstance(getattr(plugin, "checkpoint", None), (str, Path)):
        yield Checkpoint(str(plugin.checkpoint), getattr(plugin, "revision", "main"))
    for value in injected_into(plugin):
        yield from checkpoints_of(value)


def injected_into(plugin: Any) -> Iterator[Any]:
    """The objects with methods of their own that a plugin was constructed with."""
    for name in inspect.signature(type(plugin)).parameters:
        value = getattr(plugin, name, None)
        if value is not None and not isinstance(
            value, (str, bytes, int, float, Path, Tensor, Mapping, list, tuple, set)
        ):
            yield value


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch file, on the CPU; those under ``model`` or ``state_dict`` if any.

    Raises:
        CheckpointError: it is broken, or holds more than tensors: code is never run.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(path)) from error
    except Exception as error:  # safetensors' own, zip's, and what a broken pickle raises
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    for name in ("model", "state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not all(isinstance(x, Tensor) for x in loaded.values()):
        raise CheckpointError(f"{path} holds no table of tensors, but a {type(loaded).__name__}")
    return dict(loaded)


def fill(network: torch.nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Load every parameter of a network; tensors that it has no place for are left out.

    Raises:
        CheckpointError: parameters are missing, or have other shapes.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in tensors]
    wrong = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    if missing or wrong:
        name = (missing or wrong)[0]
        had = "nothing" if missing else str(tuple(tensors[name].shape))
        raise CheckpointError(
            f"{path} is no checkpoint of {type(network).__name__}: {len(missing)} of {len(own)} tensors are missing, "
            f"{len(wrong)} have another shape; {name} must be {tuple(own[name].shape)}, got {had}"
        )
    network.load_state_dict({name: tensors[name] for name in own})


def _from_pretrained(kind: Any, source: str, revision: str, **options: Any) -> Any:
    """The cache first: a pinned revision never changes, and a machine without network waits for nobody."""
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    if issubclass(kind, torch.nn.Module):
        options = {"use_safetensors": True, **options}
    options = {"revision": revision, "trust_remote_code": False, **options}
    disable_progress_bars()  # here, there is nothing to fetch
    try:
        return kind.from_pretrained(source, local_files_only=True, **options)
    except OSError:
        if Path(source).exists():
            raise
    finally:
        enable_progress_bars()
    return kind.from_pretrained(source, **options)


def _refused(path: str | Path) -> str:
    return (
        f"{path} holds more than tensors and was not opened: a pickle can run code when it is read. "
        "Convert it to safetensors on a machine you can lose"
    )
