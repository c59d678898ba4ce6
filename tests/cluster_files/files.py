"""What the tests of cluster/ have in common: its files, and the command lines in them as s3ray reads them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from s3ray.cli import app
from s3ray.config.grid import load_campaign
from s3ray.config.job import RunConfig
from s3ray.config.load import load_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DOCS = ROOT / "docs" / "clusters"
IN_IMAGE = "/opt/s3ray/"  # where the Dockerfile puts the repository's jobs

_COMMAND = re.compile(r"\bs3ray (run|plan|compare|submit|status|watch|report|audit|export|reparse) ([^#|&;]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A call of s3ray in some file; ``folder`` is where relative job files are looked for."""

    where: str
    name: str
    args: tuple[str, ...]
    folder: Path

    def parse(self) -> dict[str, Any]:
        """What s3ray's own parser makes of it; nothing is started."""
        return dict(_commands()[self.name].make_context(self.name, list(self.args)).params)

    def job_file(self) -> Path | None:
        """The job file or grid that it names, in this checkout."""
        named = self.parse().get("job") or self.parse().get("grid")
        if named is None:
            return None
        text = str(named)
        return ROOT / text.removeprefix(IN_IMAGE) if text.startswith(IN_IMAGE) else self.folder / text

    def configs(self) -> list[RunConfig]:
        """The jobs that it would run, with what --set changes."""
        path = self.job_file()
        assert path is not None
        fields = [text.partition("=") for text in self.parse().get("set_") or ()]
        changes = {field: yaml.safe_load(value) for field, _, value in fields}
        if self.name == "compare":
            return [run.config for run in load_campaign(path, changes).runs]
        return [load_config(path, changes)]


def is_known(name: str) -> bool:
    """Whether this s3ray has a command of the name."""
    return name in _commands()


def _commands() -> dict[str, Any]:
    found: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    return found


def commands_in(text: str, where: str) -> Iterator[Command]:
    """Every call of s3ray in a text, one a line; lines that end in a backslash go on."""
    for line in text.replace("\\\n", " ").splitlines():
        for found in _COMMAND.finditer(line):
            is_uploaded = "--working-dir jobs" in line
            folder = ROOT / "jobs" if is_uploaded else ROOT
            args = shlex.split(found[2].rstrip("`,. "), comments=True)
            yield Command(where=where, name=found[1], args=tuple(args), folder=folder)


def shell_blocks(page: Path) -> str:
    """What a page tells its reader to type."""
    return "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))


def documents(path: Path) -> list[dict[str, Any]]:
    """The documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def all_files() -> list[Path]:
    """Everything in cluster/ and its pages."""
    return sorted(path for folder in (CLUSTER, DOCS) for path in folder.rglob("*") if path.is_file())
