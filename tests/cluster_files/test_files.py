"""Files of cluster/ carry no secret and nothing of anybody's machine; scripts are sound; lines are short."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster_files.files import CLUSTER, all_files

SCRIPTS = [path for path in all_files() if path.suffix in (".sh", ".sbatch")]
SECRETS = {
    "a key of AWS": r"\bAKIA[0-9A-Z]{16}\b",
    "a token of the hub": r"\bhf_[A-Za-z0-9]{16,}",
    "a key of an API": r"\bsk-[A-Za-z0-9-]{16,}",
    "a private key": r"-----BEGIN",
    "a password or token in plain text": r"(?i)^\s*(password|token|secret|stringData|data):\s*[\"']?\w{8,}[\"']?\s*$",
    "a long random text": r"(?<![\w/.-])(?<!sha256:)(?=[A-Za-z0-9+/]*\d)(?=[A-Za-z0-9+/]*[a-z])"
    r"[A-Za-z0-9+/]{32,}={0,2}(?![\w/.-])",
}


@pytest.mark.parametrize("path", all_files(), ids=lambda path: path.name)
def test_no_secrets_no_machines_no_long_lines(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for what, pattern in SECRETS.items():
        assert not re.search(pattern, text, re.MULTILINE), what
    assert not re.search(r"(?<![\w.])/(root|Users|home/(?!ray\b))[\w/]", text)
    assert text.endswith("\n")
    assert text.count("\n") <= 350
    if path.suffix in (".sh", ".sbatch", ".yaml", ".yml"):
        image = "sourceImage:"  # names of images cannot be broken
        assert [line for line in text.splitlines() if len(line) > 120 and image not in line] == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path: Path) -> None:
    """bash reads them, and what shellcheck would say first: strict mode, quoted expansions, no backticks."""
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines()]
    assert "set -euo pipefail" in lines
    for line in lines:
        assert "`" not in line, line
        assert not re.search(r"\b(kill|rm|cat|cd|mkdir|source|echo|srun|scontrol)\b[^\"'#]* \$[\w{@]", line), line
        assert not re.search(r"pkill|killall|ray stop|rm -rf", line), line


def test_there_are_scripts() -> None:
    assert {path.name for path in SCRIPTS} == {"local.sh", "s3ray.sbatch"}
    assert (CLUSTER / "local.sh").stat().st_mode & 0o111
