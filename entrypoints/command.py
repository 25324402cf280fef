"""What the commands share: how they fail."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from omegaconf import DictConfig


def one_line_errors(main: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Say what a user got wrong without a traceback; HYDRA_FULL_ERROR=1 brings it back.

    A wrong setting, path or file ends with exit code 2. Any other exception is a fault of
    the program and keeps its traceback.
    """

    @wraps(main)
    def guarded(cfg: DictConfig) -> Any:
        try:
            return main(cfg)
        except KeyboardInterrupt:
            print("interrupted; the same command continues from here", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            cause = _users(error)
            if cause is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {cause}", file=sys.stderr)
            sys.exit(2)

    return guarded


def own_experiments(command: str, arguments: Sequence[str]) -> list[str]:
    """Let ``experiment=NAME`` mean this command's own recipe where there is one: ``conf/experiment/COMMAND/NAME.yaml``.

    So recipes of several commands can have one name. (Hydra cannot choose by command: a recipe may only override groups
    that a command has.)
    """
    folder = Path(__file__).parents[1] / "conf" / "experiment" / command
    chosen = []
    for argument in arguments:
        field, _, value = argument.partition("=")
        if field == "experiment":
            names = [f"{command}/{x}" if (folder / f"{x}.yaml").exists() else x for x in value.split(",")]
            argument = f"{field}={','.join(names)}"
        chosen.append(argument)
    return chosen


def quoted_patterns(arguments: Sequence[str]) -> list[str]:
    """Quote values like ``cc3m/{00000..00331}.tar``: the shell took the user's quotes, and Hydra would see a dict."""
    quoted = []
    for argument in arguments:
        field, equals, value = argument.partition("=")
        is_container = value.startswith(("[", "'", '"')) or (value.startswith("{") and value.endswith("}"))
        interpolated = "${" in value
        quoted.append(
            f"{field}='{value}'" if equals and "{" in value and not is_container and not interpolated else argument
        )
    return quoted


def _users(error: BaseException) -> BaseException | None:
    """The part of an error that is for the user: Hydra wraps what a constructor raises."""
    from hydra.errors import InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, InstantiationException):
        return error.__cause__ if isinstance(error.__cause__, (ValueError, OSError)) else error
    return error if isinstance(error, (ValueError, OSError, OmegaConfBaseException)) else None


def progress_bar(process: Any, unit: str, *, seconds: int = 10, smoothing: float = 0.05, **settings: Any) -> Any:
    """A bar of tqdm with the time that is left, in the main process; every so many seconds where a file records it."""
    from tqdm import tqdm

    return tqdm(
        unit=unit,
        disable=not process.is_main_process,
        dynamic_ncols=True,
        smoothing=smoothing,
        mininterval=0.2 if sys.stderr.isatty() else seconds,
        **settings,
    )
