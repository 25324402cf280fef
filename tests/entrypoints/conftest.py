"""Commands without the seconds that another interpreter takes to start."""

import contextlib
import io
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``command("shards", "stats", …)``: an entrypoint run in this process, as from ``where``, else the root."""

    def run(program: str, *arguments: str, where: Path = ROOT) -> subprocess.CompletedProcess[str]:
        GlobalHydra.instance().clear()
        script, said, told, code = ROOT / "entrypoints" / f"{program}.py", io.StringIO(), io.StringIO(), None
        given = [str(script), *map(str, arguments)]
        with monkeypatch.context() as patched:
            patched.chdir(where)
            patched.setattr("sys.argv", given)
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
                try:
                    runpy.run_path(str(script), run_name="__main__")
                except SystemExit as end:
                    code = end.code
        if isinstance(code, str):  # what a program says as it exits
            told.write(code + "\n")
            code = 1
        return subprocess.CompletedProcess(given, int(code or 0), said.getvalue(), told.getvalue())

    return run
