"""Every command of every page is run, in order and with what the page says to write before it."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.heads import Head, free_port, running_head
from tests.clusters.files import Command as Call
from tests.clusters.files import is_known
from tests.docs.checks import check_call
from tests.docs.pages import PAGES, ROOT, Change, Command, Shown, Step, commands, inline_commands, name_of, steps
from tests.docs.rules import RULES, RUN_BEFORE, rule_of
from tests.docs.world import World
from tests.models import make_bert


def _steps(page: Path) -> list[Step]:
    return list(steps(page.read_text(encoding="utf-8")))


def _commands(page: Path) -> list[str]:
    return [step.text for step in _steps(page) if isinstance(step, Command)]


def _needs_ray(page: Path) -> bool:
    told = [*_commands(page), *RUN_BEFORE.get(name_of(page), ())]
    return any(rule.needs_ray for command in told if (rule := rule_of(command)))


def _starts_its_own(page: Path) -> bool:
    return any("cluster/local.sh" in command for command in _commands(page))


def _pages(*, with_ray: bool, starts_its_own: bool = False) -> list[Any]:
    kind = (with_ray, starts_its_own)
    found = [page for page in PAGES if _commands(page) and (_needs_ray(page), _starts_its_own(page)) == kind]
    return [pytest.param(page, id=name_of(page)) for page in found]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head(num_cpus=4) as running:
        yield running


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, because Ray puts sockets below it."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def _follow(page: Path, world: World) -> None:
    if name_of(page) == "README.md":
        rows = "".join(
            f"{('kettle', 'lamp')[n % 2]},It is number {n}.,{('good', 'bad')[n % 3 % 2]}\n" for n in range(90)
        )
        (world.folder / "reviews.csv").write_text(f"product,comment,verdict\n{rows}")
    told = _steps(page)
    printed = world.follow(told, RUN_BEFORE.get(name_of(page), ()))
    for shown in (step.text for step in told if isinstance(step, Shown)):
        missing = [line for line in shown.splitlines() if line not in printed.splitlines()]
        assert not missing, printed
    for call in world.calls():
        check_call(call)


@pytest.mark.parametrize("page", _pages(with_ray=False))
def test_pages_without_a_cluster(page: Path, folder: Path, student: Path) -> None:
    is_changed = any(isinstance(step, Change) for step in _steps(page))
    _follow(page, World(folder, student, {}, whole=is_changed))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("page", _pages(with_ray=True))
def test_pages_with_a_cluster(page: Path, folder: Path, student: Path, head: Head) -> None:
    token = Path(head.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    variables = {"RAY_AUTH_TOKEN": token, "RAY_ADDRESS": head.address, "DASHBOARD": head.dashboard}
    _follow(page, World(folder, student, variables))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("page", _pages(with_ray=True, starts_its_own=True))
def test_pages_that_start_a_cluster(page: Path, folder: Path, student: Path) -> None:
    ports = {"S3RAY_LOCAL_PORT": str(free_port()), "S3RAY_LOCAL_DASHBOARD": str(free_port())}
    world = World(folder, student, {"S3RAY_LOCAL_DIR": str(folder / "local"), **ports})
    try:
        _follow(page, world)
    finally:
        if (folder / "local" / "nodes").exists():  # what failed before its `stop`
            world.follow([Command(text="cluster/local.sh stop")])


def test_no_command_is_without_a_rule() -> None:
    unknown = [f"{name_of(page)}: {text}" for page in PAGES for text in _commands(page) if rule_of(text) is None]
    assert not unknown


def test_every_rule_is_for_some_command() -> None:
    """What is for nothing any more could let through what nobody meant."""
    told = [text for page in PAGES for text in (*_commands(page), *RUN_BEFORE.get(name_of(page), ()))]
    unused = [rule.pattern for rule in RULES if not any(re.fullmatch(rule.pattern, text) for text in told)]
    assert not unused


def test_every_block_of_shell_is_read() -> None:
    """A fence in another spelling, or an indented one, would hide commands."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fenced = re.findall(r"^ *[`~]{3,} *(?:bash|console|sh|shell|shell-session|zsh)\b.*$", text, re.MULTILINE)
        read = re.findall(r"^```(?:bash|console|sh|shell)\n", text, re.MULTILINE)
        assert len(fenced) == len(read), name_of(page)
    assert sum(len(_commands(page)) for page in PAGES) > 50


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
