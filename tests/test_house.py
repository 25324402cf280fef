"""The house keeps its own shape: rooms, doors, configurations and packaging agree."""

import ast
import inspect
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from scenewright import protocols

ROOT = Path(__file__).parents[1]
HALL = {"layout", "protocols", "checkpoints", "networks", "batching", "crops", "chat", "perceptual_hashes"}
ROOMS = {"annotators", "datasets", "layout_models", "evaluation"}
#: conf/<group>/NAME.yaml describes one class in packages/<room>/NAME.py, which stands behind one door
GROUPS = {
    "annotator/tagger": ("annotators.taggers", "Tagger"),
    "annotator/detector": ("annotators.detectors", "Detector"),
    "annotator/segmenter": ("annotators.segmenters", "Segmenter"),
    "annotator/captioner": ("annotators.captioners", "Captioner"),
    "filter": ("annotators.filters", "Filter"),
    "dataset": ("datasets", "Dataset"),
    "layout_model": ("layout_models", "LayoutModel"),
    "metric": ("evaluation", "Metric"),
}
CONFIGS = [path for group in GROUPS for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]
SOURCES = sorted((ROOT / "packages").rglob("*.py"))
SCRIPTS = [
    "annotate",
    "eval",
    "export",
    "generate",
    "import_annotations",
    "leaderboard",
    "preference",
    "report",
    "shards",
    "train",
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> list[tuple[int, str]]:
    """Every module that a file imports, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
    return found


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_no_other_room(room):
    for path in (ROOT / "packages" / room).rglob("*.py"):
        for line, module in imports(path):
            if module.startswith("scenewright."):
                assert module.split(".")[1] in HALL | {room}, f"{name_of(path)}:{line} imports {module}"


def test_the_hall_imports_no_room():
    for path in (ROOT / "packages" / f"{name}.py" for name in HALL):
        for line, module in imports(path):
            assert not module.startswith("scenewright.") or module.split(".")[1] in HALL, f"{name_of(path)}:{line}"


def test_imports_are_absolute_so_that_a_plugin_can_be_copied_out():
    for path in [*SOURCES, *(ROOT / "entrypoints").glob("*.py")]:
        for line, module in imports(path):
            assert not module.startswith("."), f"{name_of(path)}:{line} imports {module}"


def test_no_folder_is_a_drawer():
    for path in SOURCES:
        assert path.stem not in {"utils", "common", "core", "helpers", "tools", "base"}, name_of(path)


def test_no_room_prints():
    for path in SOURCES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not [c.lineno for c in calls if getattr(c.func, "id", "") == "print"], name_of(path)


def settings_of(path):
    """An option with its settings; a variant of another option has those of that one, and its file."""
    node = OmegaConf.load(path)
    base = path.parent / f"{node.get('defaults', ['none'])[0]}.yaml"
    if "_target_" in node or not base.exists():
        return node, path
    settings, file = settings_of(base)
    assert node.keys() - {"defaults"} <= settings.keys()
    return OmegaConf.merge(settings, node), file


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_config_names_the_class_in_the_file_of_its_name(path):
    room, door = GROUPS[str(path.parent.relative_to(ROOT / "conf"))]
    node, path = settings_of(path)
    if "_target_" not in node:  # a filter or metric sits under its own name, so that several can be chosen
        (node,) = (value for key, value in node.items() if key != "defaults")
    assert node._target_.startswith(f"scenewright.{room}.{path.stem}."), node._target_
    kind = get_object(node._target_)
    inspect.signature(kind).bind_partial(**{k: None for k in node if not k.startswith(("_", "defaults"))})
    verbs = [x for x in vars(getattr(protocols, door)) if not x.startswith("_") or x in ("__iter__", "__call__")]
    assert all(hasattr(kind, verb) for verb in verbs), f"{node._target_} is no {door}: it needs {verbs}"


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_option_composes(path, config):
    group = str(path.parent.relative_to(ROOT / "conf"))
    if group == "metric":
        assert config("eval", f"metric=[{path.stem}]", "output_dir=x").metric.keys() == {path.stem}
        return
    if group == "layout_model":
        assert config("eval", f"layout_model={path.stem}", "output_dir=x")
        assert config("train", f"layout_model={path.stem}", "output_dir=x")
        assert config("generate", f"layout_model={path.stem}", "output_dir=x")
        return
    chosen = f"[{path.stem}]" if group == "filter" else path.stem
    assert config("annotate", f"{group}={chosen}", "output_dir=x")


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "format").glob("*.yaml")), ids=name_of)
def test_a_format_names_a_class_that_takes_its_settings(path, config):
    node = config("export", f"format={path.stem}", "shards=x", "output=y").format
    kind = get_object(node._target_)
    assert node._target_.startswith("scenewright.datasets.formats.") and hasattr(kind, "write")
    inspect.signature(kind).bind_partial(**{k: None for k in node if not k.startswith("_")})


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "feature_network").glob("*.yaml")), ids=name_of)
def test_a_feature_network_names_a_class_that_takes_its_settings(path, config):
    chosen = f"feature_network@metric.fid.network={path.stem}"
    node = config("eval", "metric=[fid]", chosen, "output_dir=x").metric.fid.network
    kind = get_object(node._target_)
    assert node._target_.startswith("scenewright.evaluation.") and hasattr(kind, "features")
    inspect.signature(kind).bind_partial(**{k: None for k in node if not k.startswith("_")})


def test_what_a_recipe_is_called_is_a_format_too():
    for path in (ROOT / "conf" / "experiment").glob("*_data.yaml"):
        assert (ROOT / "conf" / "format" / f"{path.stem.removesuffix('_data')}.yaml").exists(), path.stem


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").glob("*.yaml")), ids=name_of)
def test_every_experiment_composes(path, config):
    assert config("annotate", f"experiment={path.stem}", "output_dir=x")


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "experiment").glob("*/*.yaml")), ids=name_of)
def test_every_recipe_of_another_command_composes(path, config):
    command = path.parent.name
    if (path.parent.parent / f"{command}.yaml").exists():
        pytest.skip("a part of a recipe, which is composed as a whole")
    assert config(command, f"experiment={command}/{path.stem}", "output_dir=x")


def test_every_kind_of_plugin_has_one_that_needs_no_weights(config):
    cfg = config("annotate", "experiment=embedded", "output_dir=x")
    assert set(cfg.annotator) == {"tagger", "detector", "segmenter", "captioner"}
    assert not any("checkpoint" in plugin for plugin in cfg.annotator.values())


def test_every_package_is_packaged():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {"scenewright", "scenewright.conf", "scenewright.entrypoints"}
    for init in (ROOT / "packages").rglob("*/__init__.py"):
        found.add(".".join(("scenewright", *init.parent.relative_to(ROOT / "packages").parts)))
    assert set(listed) == found and listed == sorted(listed)


def test_every_pinned_version_satisfies_what_is_asked_for():
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    asked = project["dependencies"] + [x for extra in project["optional-dependencies"].values() for x in extra]
    for requirement in map(Requirement, asked):
        if requirement.name != "scenewright":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_no_test_folder_is_a_package():
    """A ``tests/datasets/__init__.py`` would shadow Hugging Face's ``datasets``."""
    plugin = ROOT / "tests" / "plugin"
    assert [p for p in (ROOT / "tests").rglob("__init__.py") if plugin not in p.parents] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_command_is_under_sixty_lines(script):
    assert len((ROOT / "entrypoints" / f"{script}.py").read_text().splitlines()) < 60


def test_the_readmes_tree_names_what_is_there():
    tree = (ROOT / "README.md").read_text().split("## The tree")[1].split("```")[1]
    for name in re.findall(r"^[│├└─ ]*([\w.]+)/?(?=\s|$)", tree, re.MULTILINE):
        assert name == "scenewright" or list(ROOT.glob(name)) or list((ROOT).glob(f"[!.]*/**/{name}")), name


def test_no_generated_file_is_committed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    for name in listed.stdout.splitlines():
        assert not name.endswith((".pyc", ".tar", ".ipynb")), name
        path = ROOT / name
        embedded = name.startswith("packages/") and name.endswith(".safetensors")
        limit = 10_000_000 if embedded else 1_500_000
        assert not path.exists() or path.stat().st_size < limit or name.startswith("tests/golden/"), name
