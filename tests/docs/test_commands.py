"""Every command of every page is run, in order and with what the page says to write before it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.heads import Head
from tests.cluster_files.files import Command as Call
from tests.cluster_files.files import is_known
from tests.docs.following import follow_page, needs_ray, page_commands, starts_its_own
from tests.docs.pages import PAGES, ROOT, commands, inline_commands, name_of
from tests.docs.rules import RULES, RUN_BEFORE, rule_of
from tests.docs.world import World


def _pages(*, with_ray: bool) -> list[Any]:
    """Those that start a cluster of their own are in test_local_cluster.py: a process beside this one runs them."""
    found = [page for page in PAGES if page_commands(page) and needs_ray(page) == with_ray and not starts_its_own(page)]
    return [pytest.param(page, id=name_of(page)) for page in found]


@pytest.fixture(scope="module")
def variables(head: Head) -> Mapping[str, str]:
    """What a reader has in the environment to reach the cluster."""
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    return {"RAY_AUTH_TOKEN": token, "RAY_ADDRESS": head.address, "DASHBOARD": head.dashboard}


@pytest.mark.parametrize("page", _pages(with_ray=False))
def test_pages_without_a_cluster(page: Path, folder: Path, student: Path) -> None:
    runs_tests = any(" pytest " in command for command in page_commands(page))
    follow_page(page, World(folder, student, {}, whole=runs_tests))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("page", _pages(with_ray=True))
def test_pages_with_a_cluster(page: Path, folder: Path, student: Path, variables: Mapping[str, str]) -> None:
    follow_page(page, World(folder, student, variables))


def test_no_command_is_without_a_rule() -> None:
    unknown = [f"{name_of(page)}: {text}" for page in PAGES for text in page_commands(page) if rule_of(text) is None]
    assert not unknown


def test_every_rule_is_for_some_command() -> None:
    """What is for nothing any more could let through what nobody meant."""
    told = [text for page in PAGES for text in (*page_commands(page), *RUN_BEFORE.get(name_of(page), ()))]
    unused = [rule.pattern for rule in RULES if not any(re.fullmatch(rule.pattern, text) for text in told)]
    assert not unused


def test_every_block_of_shell_is_read() -> None:
    """A fence in another spelling, or an indented one, would hide commands."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fenced = re.findall(r"^ *[`~]{3,} *(?:bash|console|sh|shell|shell-session|zsh)\b.*$", text, re.MULTILINE)
        read = re.findall(r"^```(?:bash|console|sh|shell)\n", text, re.MULTILINE)
        assert len(fenced) == len(read), name_of(page)
    assert sum(len(page_commands(page)) for page in PAGES) > 50


def test_what_make_does_is_what_pages_say() -> None:
    """`make demo` is the quickstart, which other pages run."""
    recipe = re.search(r"^demo:.*\n\t(.*)\n", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    assert list(commands(recipe[1].replace("$(BIN)", ".venv/bin"))) == [".venv/bin/s3ray run jobs/quickstart.yaml"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_calls_within_sentences_are_ones_that_s3ray_takes(page: Path) -> None:
    for words in inline_commands(page.read_text(encoding="utf-8")):
        _, name, *rest = words
        assert is_known(name), words
        call = Call(where=name_of(page), name=name, args=tuple(rest), folder=ROOT)
        if any(not word.startswith("-") for word in rest):  # a bare name of a command is no call
            call.parse()
