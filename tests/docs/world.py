"""Where documented commands run: a folder with the repository's jobs, and stand-ins for what is not here."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.docs.pages import ROOT, Command, File, Shown, Step
from tests.docs.rules import moved, rule_of

LIMIT_S = 900
NO_IDLE_WORKERS = "RAY_prestart_worker_first_driver"  # as in tests/conftest.py
STAND_INS = ("kubectl", "docker", "aws", "sbatch", "pip")
_NOTES = """\
#!/usr/bin/env bash
{{ printf '%s\\0' {name} "$@"; printf '\\n'; }} >> "$WORLD/.calls"
{more}
"""
# What the cluster would answer to: give me the token.
_SECRET = """[[ "$*" != *"get secret"* ]] || printf %s "${RAY_AUTH_TOKEN:-none}" | base64"""
_RAY = """\
#!/usr/bin/env bash
case $1 in
    up | down | dashboard) {{ printf '%s\\0' ray "$@"; printf '\\n'; }} >> "$WORLD/.calls" ;;
    *) exec {python} -c 'from ray.scripts.scripts import main; main()' "$@" ;;
esac
"""
_TAIL = """\
#!/usr/bin/env bash
[[ $1 == -f ]] || {{ PATH=${{PATH#*:}}; exec tail "$@"; }}
{{ printf '%s\\0' tail "$@"; printf '\\n'; }} >> "$WORLD/.calls"
"""
_PYTHON = '#!/usr/bin/env bash\nexec {python} {given} "$@"\n'
_MAKE = """\
#!/usr/bin/env bash
make=$(PATH=${{PATH#*:}} command -v make)
"$make" -n -C {root} "$@"
"""


class World:
    """A folder of its own, and what happens in it.

    ``variables`` are those of the environment; ``whole`` copies the repository's sources too, for pages that run
    its tests.
    """

    def __init__(self, folder: Path, student: Path, variables: Mapping[str, str], *, whole: bool = False) -> None:
        self.folder = folder
        for name in ("jobs", "cluster", *(("s3ray", "tests", "benchmarks", "docs") if whole else ())):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        if whole:
            shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / "shared").mkdir()
        self._make_programs(folder / ".venv" / "bin")
        home = folder / "home"
        home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "S3RAY_", "AWS_"))}
        self.environment = kept | {
            "PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder if whole else ROOT),
            "HOME": str(home),
            "WORLD": str(folder),
            "BERT": str(student),
            "S3RAY_CACHE": os.environ["S3RAY_CACHE"],
            "RAY_USAGE_STATS_ENABLED": "0",
            NO_IDLE_WORKERS: "0",
            **variables,
        }

    def _make_programs(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        python = shlex.quote(sys.executable)
        s3ray = "-c 'import sys; sys.argv[0] = \"s3ray\"; from s3ray.cli import main; main()'"
        programs = {name: _NOTES.format(name=name, more="") for name in STAND_INS}
        programs["kubectl"] = _NOTES.format(name="kubectl", more=_SECRET)
        programs["s3ray"] = _PYTHON.format(python=python, given=s3ray)
        programs["python"] = _PYTHON.format(python=python, given="")
        programs["ray"] = _RAY.format(python=python)
        programs["tail"] = _TAIL.format()
        programs["make"] = _MAKE.format(root=shlex.quote(str(ROOT)))
        for name, text in programs.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "activate").write_text("PATH=$PWD/.venv/bin:$PATH\n")

    def follow(self, steps: Sequence[Step]) -> str:
        """Do what a page says, in one shell; returns what was printed. The first command that fails ends it."""
        script = ["set -eo pipefail"]
        for number, step in enumerate(steps):
            place = self.folder / ".steps" / str(number)
            match step:
                case Command():
                    script.append(self._line(step.text))
                case File():
                    place.parent.mkdir(exist_ok=True)
                    place.write_text(step.text, encoding="utf-8")
                    script.append(f"mkdir -p {shlex.quote(str(Path(step.path).parent))}; cp {place} {step.path}")
                case Shown():
                    pass  # compared with the output by whoever follows the page
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        at = (self.folder / ".at").read_text() if (self.folder / ".at").exists() else "its beginning"
        assert done.returncode == 0, f"exit code {done.returncode} of: {at}\n{done.stdout}"
        return done.stdout

    def _line(self, command: str) -> str:
        rule = rule_of(command)
        assert rule is not None, f"no rule says how to run: {command}"
        note = f"printf '%s' {shlex.quote(command)} > \"$WORLD/.at\""
        return f"{note}\n{moved(command)}{rule.options}"

    def calls(self) -> list[list[str]]:
        """What stand-ins were asked for, in order."""
        notes = self.folder / ".calls"
        return (
            [line.rstrip("\0").split("\0") for line in notes.read_text().split("\0\n") if line]
            if notes.exists()
            else []
        )
