"""The pages that are looked at, and where their pictures are kept."""

from pathlib import Path

import pytest

from tests.browser.folders import write_pages

ARTEFACTS = Path(__file__).parents[2] / "artefacts"


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of whole folders, by name."""
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Folder of the pictures, which outlives the tests."""
    ARTEFACTS.mkdir(exist_ok=True)
    return ARTEFACTS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say where the pictures lie, if any were taken."""
    taken = sum("test_pages" in report.nodeid for report in terminalreporter.stats.get("passed", []))
    if taken:
        terminalreporter.write_line(f"Screenshots and prints of the pages: {ARTEFACTS}")
