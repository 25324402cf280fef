"""Where a plugin's weights come from: a folder, a file or a model hub, found without surprises.

Weights are read as safetensors or with ``weights_only=True``; no code that comes with them
is ever run.
"""

import inspect
import logging
import pickle
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

#: What a model of transformers consists of, for messages.
MODEL_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")

#: The same for one that takes no text.
VISION_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")

#: The same for a pipeline of diffusers, whose parts have folders of their own.
PIPELINE_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
)

#: The commit that the hub named, by repository and revision: it is asked once in a run.
_ANSWERS: dict[tuple[str, str], str | None] = {}


class CheckpointError(ValueError):
    """Weights that cannot be used. It is about the run, not about one image: nothing goes on without them."""


class MissingWeights(CheckpointError):
    """Weights that are not there.

    Args:
        message: what is missing, for people.
        checkpoint: which, where the hub would have it.
        reason: why the hub does not give it.
    """

    def __init__(self, message: str, checkpoint: "Checkpoint | None" = None, reason: str = "") -> None:
        super().__init__(message)
        self.checkpoint, self.reason = checkpoint, reason


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
        """The commit of the hub's repository that is or will be used; None for a path, and where nobody knows."""
        found = self._cached(self.files[0])
        if found is not None:  # .../snapshots/COMMIT/FILE
            return found.parts[-1 - len(Path(self.files[0]).parts)]
        return None if self.is_local else _ANSWERS.get((self.name, self.revision))

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
            kind: a class of transformers or diffusers: a network, an Auto class or a processor.
            options: passed on.

        Raises:
            MissingWeights: it is not here, and the hub does not give it.
            CheckpointError: it is not a checkpoint of this kind.
        """
        self.check()
        source = str(Path(self.name).expanduser()) if self.is_local else self.name
        is_network = hasattr(kind, "_model_mapping") or (isinstance(kind, type) and issubclass(kind, torch.nn.Module))
        if is_network:
            # of other shapes there is a report, which says more than the error
            checked = {"output_loading_info": True, "ignore_mismatched_sizes": True}
            options = {"use_safetensors": True, **options, **checked}
        try:
            loaded = _from_pretrained(kind, source, self.revision, **options)
        except pickle.UnpicklingError as error:
            raise CheckpointError(_refused(source)) from error
        except Exception as error:  # safetensors' own, and whatever else a broken file makes its reader raise
            what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            wants = f"{kind.__name__} needs {self._listed}"
            raise CheckpointError(f"{self._full_name} cannot be loaded: {what}; {wants}") from error
        if not is_network:
            return loaded
        network, report = loaded
        self._check_complete(network, report["missing_keys"], [x[0] for x in report["mismatched_keys"]])
        return network

    def _check_complete(self, network: torch.nn.Module, missing: Collection[str], misshapen: Collection[str]) -> None:
        """Refuse a network whose weights are not there: transformers makes up random ones and goes on."""
        lacking = sorted({*missing, *misshapen})
        if not lacking:
            return
        known = len(network.state_dict())
        what = (
            f"{len(lacking)} of {known} tensors of {type(network).__name__} are not in {self._full_name}, or have "
            f"another shape: {', '.join(lacking[:3])}"
        )
        if misshapen or len(lacking) > known / 100:
            raise CheckpointError(f"{what}, ...; it is another network's checkpoint")
        logger.warning("%s; they are random", what)

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
        """Ask once, without retries, so that a machine without network hears it at once and not after many retries."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        if (self.name, self.revision) in _ANSWERS:
            return
        try:
            validate_repo_id(self.name)
            if constants.is_offline_mode():
                raise OSError("HF_HUB_OFFLINE is set")
            answer = HfApi().model_info(self.name, revision=self.revision, timeout=10)
            _ANSWERS[self.name, self.revision] = answer.sha
        except HFValidationError as error:
            raise MissingWeights(f"{self.name} is no file or folder here, and no id of a hub either") from error
        except Exception as error:  # whatever the client's transport raises
            raise self._missing(error) from error

    def _missing(self, error: Exception) -> MissingWeights:
        reason = " ".join(str(error).split())[:200]
        message = (
            f"the weights {self._full_name} are not on this machine, and the hub does not give them ({reason}); "
            f"needed are {self._listed}. {_how_to_bring([self])}"
        )
        return MissingWeights(message, self, reason)


def check(plugins: Mapping[str, Any]) -> None:
    """Make sure, before any work is done, that plugins have their weights, and what their own ``check`` asks for.

    Args:
        plugins: by the name that a user knows them by.

    Raises:
        CheckpointError: something is missing; one paragraph says what, which files, and where to put them.
    """
    missing: list[tuple[str, MissingWeights]] = []
    sentences = []
    for name, plugin in plugins.items():
        name = f"{name} {type(plugin).__name__}"
        for part in (plugin, *_all_injected_into(plugin)):
            own = getattr(part, "check", None)
            for ready in [*([own] if callable(own) else []), *(x.check for x in checkpoints_of(part, deeply=False))]:
                try:
                    ready()
                except MissingWeights as error:
                    missing.append((name, error))
                except CheckpointError as error:
                    sentences.append(f"{name}: {error}")
    sentences += [f"{name}: {error}" for name, error in missing if error.checkpoint is None]
    hub = [(name, error.checkpoint, error.reason) for name, error in missing if error.checkpoint is not None]
    if hub:
        listed = "; ".join(f"{name}: {x.name} at revision {x.revision} with {', '.join(x.files)}" for name, x, _ in hub)
        reason = "; ".join(dict.fromkeys(why for _, _, why in hub))
        sentences.append(
            f"weights are missing on this machine, and the hub does not give them ({reason}). Needed are, "
            f"{listed}. {_how_to_bring([x for _, x, _ in hub])}"
        )
    if sentences:
        raise MissingWeights(". ".join(sentences))


def _how_to_bring(checkpoints: Sequence[Checkpoint]) -> str:
    from huggingface_hub import constants

    whole = (MODEL_FILES, VISION_FILES, PIPELINE_FILES)
    commands = "; ".join(
        " ".join([f"hf download {x.name} --revision {x.revision}", *(x.files if x.files not in whole else ())])
        for x in dict.fromkeys(checkpoints)
    )
    return (
        f"On a machine with a network run `{commands}`, then either copy the folder that it prints to this machine "
        "and set to it what names them (annotator.detector.checkpoint=/that/folder, layout_model.base=/that/folder, "
        "layout_model.weights=/that/folder), or copy its models--* folders into "
        f"{constants.HF_HUB_CACHE}"
    )


def checkpoints_of(plugin: Any, deeply: bool = True) -> Iterator[Checkpoint]:
    """The checkpoints that a plugin will load.

    They are its attribute ``checkpoints`` if it has one, else ``checkpoint`` and ``revision``.

    Args:
        deeply: those of the plugins that were injected into it too.
    """
    declared = getattr(plugin, "checkpoints", None)
    if declared is not None:
        yield from declared
    elif isinstance(getattr(plugin, "checkpoint", None), (str, Path)):
        yield Checkpoint(str(plugin.checkpoint), getattr(plugin, "revision", "main"))
    for value in _all_injected_into(plugin) if deeply else ():
        yield from checkpoints_of(value, deeply=False)


def _all_injected_into(plugin: Any) -> Iterator[Any]:
    for value in _injected_into(plugin):
        yield value
        yield from _all_injected_into(value)


def _injected_into(plugin: Any) -> Iterator[Any]:
    """What a plugin was constructed with that is no plain value."""
    try:
        names = inspect.signature(type(plugin)).parameters
    except ValueError:  # a class of C without a signature
        return
    for name in names:
        value = getattr(plugin, name, None)
        if value is not None and not isinstance(
            value, (str, bytes, int, float, Path, Tensor, Mapping, list, tuple, set)
        ):
            yield value


def read_tensors(
    path: str | Path, tables: Sequence[str] = ("model", "state_dict"), safe: Sequence[type] = ()
) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch file, on the CPU.

    Args:
        path: of the file.
        tables: where a PyTorch file holds its tensors under one of these names, the first that is there is taken, and
            the next ones within it.
        safe: classes that a PyTorch file may hold besides; their instances are made without running their code.

    Raises:
        CheckpointError: it is broken, or holds more than tensors: code is never run.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with open(path, "rb") as file:
            old = file.read(1) == b"\x80"  # torch's format before 1.6, a bare pickle, which cannot be mapped
        with torch.serialization.safe_globals(list(safe)):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=not old)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refused(path)) from error
    except Exception as error:  # safetensors' own, zip's, and what a broken pickle raises
        raise CheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    for name in tables:
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
    from transformers.utils import logging as transformers_logging

    options = {"revision": revision, "trust_remote_code": False, **options}
    libraries = [transformers_logging]
    if kind.__module__.startswith("diffusers."):
        from diffusers.utils import logging as diffusers_logging

        libraries.append(diffusers_logging)
    verbosities = [library.get_verbosity() for library in libraries]
    disable_progress_bars()  # here, there is nothing to fetch
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()  # what is missing is refused anyway; what is too much is none's concern
    try:
        return kind.from_pretrained(source, local_files_only=True, **options)
    except OSError:
        if Path(source).exists():
            raise
    finally:
        enable_progress_bars()
        for library, verbosity in zip(libraries, verbosities, strict=True):
            library.enable_progress_bar()
            library.set_verbosity(verbosity)
    return kind.from_pretrained(source, **options)


def _refused(path: str | Path) -> str:
    return (
        f"{path} holds more than tensors and was not opened: a pickle can run code when it is read. "
        "Convert it to safetensors on a machine you can lose"
    )
