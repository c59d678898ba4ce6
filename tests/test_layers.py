"""Layers: what coordinates a run can be imported, and so tested and debugged, without the heavy libraries."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "s3ray"
HEAVY = ("ray", "torch", "transformers", "vllm", "datasets")
LIGHT = (
    "s3ray",
    "s3ray.config.job",
    "s3ray.rounds.driver",
    "s3ray.storage.run_folder",
    "s3ray.tasks",
    "s3ray.strategies",
    "s3ray.generator.scheduling.ledger",
    "s3ray.generator.scheduling.dispatch",
    "s3ray.placement.place",
    "s3ray.student.trained",
    "s3ray.report.run",
    # Whoever only looks at a run, on a machine without Ray; ``prometheus`` speaks to Ray.
    *(
        f"s3ray.monitor.{path.stem}"
        for path in sorted((SOURCE / "monitor").glob("[!_]*.py"))
        if path.stem != "prometheus"
    ),
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


def test_every_folder_and_module_is_in_one_layer() -> None:
    """What the contract does not list would escape it, and a part of a folder that it lists would hide a knot."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    listed = [name.strip() for layer in layers for name in layer.split(":")]
    needed = [name for name in listed if not name.startswith("(")]  # in brackets: it may be missing
    assert len(set(listed)) == len(listed)
    there = {path.parent.name if path.name == "__init__.py" else path.stem for path in _tops()}
    assert set(needed) <= there <= {name.strip("()") for name in listed}


def _tops() -> list[Path]:
    """What lies directly in ``s3ray/``: modules, and the packages by their first file."""
    return [path for path in (*SOURCE.glob("*.py"), *SOURCE.glob("*/__init__.py")) if path != SOURCE / "__init__.py"]


def test_every_folder_with_code_is_a_package() -> None:
    """import-linter and the wheel both pass over a folder without ``__init__.py``."""
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert not {folder for folder in folders if not (folder / "__init__.py").exists()}
