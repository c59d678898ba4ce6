"""The version of the code that runs."""

import subprocess
from pathlib import Path

from s3ray import __version__


def code_version() -> str:
    """The commit where the package lies in its own repository (``-dirty``: with changes), else the version."""
    known = _git("ls-files", "--error-unmatch", Path(__file__).name)
    return (known and _git("describe", "--always", "--dirty")) or f"v{__version__}"


def _git(*arguments: str) -> str:
    try:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # there is no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
