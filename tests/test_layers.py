"""Layers: what coordinates a run can be imported, and so tested and debugged, without the heavy libraries."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("ray", "torch", "transformers", "vllm", "datasets")
LIGHT = (
    "s3ray.config.job",
    "s3ray.rounds.driver",
    "s3ray.storage.run_folder",
    "s3ray.tasks",
    "s3ray.strategies",
    "s3ray.generator.scheduling.ledger",
    "s3ray.generator.scheduling.dispatch",
    "s3ray.placement.place",
    "s3ray.student.trained",
)
PROBE = """
import importlib, json, sys
light, heavy = json.loads(sys.argv[1])
loaded = {}
for module in light:
    importlib.import_module(module)
    loaded[module] = [name for name in heavy if name in sys.modules]
print(json.dumps(loaded))
"""


def loaded(modules: Sequence[str], heavy: Sequence[str]) -> dict[str, list[str]]:
    """Which heavy libraries a fresh interpreter has loaded after each module."""
    command = [sys.executable, "-c", PROBE, json.dumps([modules, heavy])]
    found = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(found))


def test_words_and_logic_load_nothing_heavy() -> None:
    assert loaded(LIGHT, HEAVY) == {module: [] for module in LIGHT}


def test_who_does_not_train_loads_no_torch() -> None:
    """A plan, a benchmark and the driver of a campaign start in a second."""
    modules = ["s3ray.launch.run", "s3ray.campaign.run", "s3ray.bench.run", "s3ray.launch.submit"]
    assert loaded(modules, HEAVY[1:]) == {module: [] for module in modules}


def test_ray_trains_controller_loads_no_models() -> None:
    """It loads this module before it starts a worker, for every student."""
    module = "s3ray.student.ray_trainer"
    assert loaded([module], ["transformers", "vllm", "datasets"]) == {module: []}


def test_every_module_is_in_one_layer() -> None:
    """A module that the contract does not list would escape it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    listed = {f"s3ray.{name.strip()}" for layer in layers for name in layer.split(":")}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "s3ray").rglob("*.py")}
    packages = {module.removesuffix(".__init__") for module in modules if module.endswith(".__init__")}
    stray = {
        module
        for module in modules - {f"{package}.__init__" for package in packages}
        if not any(f"{module}.".startswith(f"{name}.") for name in listed)
    }
    assert not stray


def test_every_folder_with_code_is_a_package() -> None:
    """import-linter and the wheel both pass over a folder without ``__init__.py``."""
    folders = {path.parent for path in (ROOT / "s3ray").rglob("*.py")}
    assert not {folder for folder in folders if not (folder / "__init__.py").exists()}
