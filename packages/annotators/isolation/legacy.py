"""The one environment for the packages that cannot live beside transformers 5: `make legacy` builds it."""

from pathlib import Path
from typing import Any

from scenewright.annotators.isolation.process import Worker, python_of
from scenewright.checkpoints import CheckpointError

#: Where `make legacy` puts it.
ENVIRONMENT = ".venv-legacy"

REMEDY = (
    f"`make legacy` builds it in {ENVIRONMENT}: salesforce-lavis 1.0.2, groundingdino-py 0.4.0, segment-anything 1.0, "
    "transformers 4.26.1 and torch in a virtual environment of their own, about 7 GB, two to five minutes. Or name "
    "another one that has the package: environment=/path/to/it"
)


def check_environment(environment: str) -> None:
    """Make sure that there is a Python in it.

    Raises:
        CheckpointError: there is none; it says how to get one.
    """
    if not python_of(Path(environment)).exists():
        raise CheckpointError(f"the environment {environment} cannot be used: it is not there. {REMEDY}")


def legacy_worker(
    plugin: str,
    verb: str,
    environment: str,
    settings: dict[str, Any],
    *,
    timeout: float,
    log: str | None,
    more: str = "",
) -> Worker:
    """A module of ``isolation/workers`` in the legacy environment.

    Args:
        plugin: its name.
        more: what else there is to do to get the plugin's package.
    """
    path = Path(__file__).with_name("workers") / f"{plugin}.py"
    remedy = f"{REMEDY}. {more}" if more else REMEDY
    return Worker(
        environment, str(path), settings, verb, timeout=timeout, load_timeout=3 * timeout, log=log, remedy=remedy
    )
