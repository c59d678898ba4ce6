"""The version of the code: the commit in its own repository, elsewhere the version."""

import re
import subprocess
from pathlib import Path

import pytest

import s3ray
from s3ray.telemetry import provenance


def test_a_checkout_goes_by_its_commit_and_an_installed_package_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert re.match(r"[0-9a-f]{7,}(-dirty)?$|v", provenance.code_version())
    # A virtual environment inside of somebody's repository is not of that repository.
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.code_version() == f"v{s3ray.__version__}"
