"""What tests of whole pages have in common: which kind a page is of, and a reader who does all that it says."""

from pathlib import Path

from tests.docs.checks import check_call
from tests.docs.pages import Command, Shown, Step, name_of, steps
from tests.docs.rules import RUN_BEFORE, rule_of
from tests.docs.world import World


def page_steps(page: Path) -> list[Step]:
    """What a page says to do, in order."""
    return list(steps(page.read_text(encoding="utf-8")))


def page_commands(page: Path) -> list[str]:
    """Its commands alone."""
    return [step.text for step in page_steps(page) if isinstance(step, Command)]


def needs_ray(page: Path) -> bool:
    """Whether its commands want a cluster."""
    return any(rule.needs_ray for command in page_commands(page) if (rule := rule_of(command)))


def starts_its_own(page: Path) -> bool:
    """Whether it starts a cluster on the reader's machine."""
    return any("cluster/local.sh" in command for command in page_commands(page))


def follow_page(page: Path, world: World) -> None:
    """Do what a page says; what it shows must be printed, and stand-ins asked only for what their programs take."""
    if name_of(page) == "README.md":
        rows = "".join(
            f"{('kettle', 'lamp')[n % 2]},It is number {n}.,{('good', 'bad')[n % 3 % 2]}\n" for n in range(90)
        )
        (world.folder / "reviews.csv").write_text(f"product,comment,verdict\n{rows}")
    told = page_steps(page)
    before = [Command(text=text) for text in RUN_BEFORE.get(name_of(page), ())]
    printed = world.follow([*before, *told])
    for shown in (step.text for step in told if isinstance(step, Shown)):
        missing = [line for line in shown.splitlines() if line not in printed.splitlines()]
        assert not missing, printed
    for call in world.calls():
        check_call(call)
