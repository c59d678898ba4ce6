"""What the pages tell their reader to do, in order: files to write, commands to type."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "console", "sh", "shell")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`([\w./-]+\.\w+)`:\s*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that the reader writes: its block stands under its name."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Lines that the commands before it print."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command, its continuation lines and a comment at its end taken off."""

    text: str


Step = File | Shown | Command


def name_of(page: Path) -> str:
    """A page as a path from the root."""
    return page.relative_to(ROOT).as_posix()


def steps(text: str) -> Iterator[Step]:
    """What a page says to do. Blocks of other languages count where they stand under the name of a file."""
    for block in _FENCE.finditer(text):
        language, body = block.groups()
        named = _NAMED.search(text[: block.start()])
        if language in SHELLS:
            yield from (Command(text=line) for line in commands(body))
        elif language == "text":
            yield Shown(text=body)
        elif named:
            yield File(path=named[1], text=body)


def commands(body: str) -> Iterator[str]:
    """The commands of a block, one each. A prompt sign is taken off; what follows one without it is what is printed."""
    has_prompts = re.search(r"^\$ ", body, re.MULTILINE)
    for line in body.replace("\\\n", " ").splitlines():
        if has_prompts and not line.startswith("$ "):
            continue
        plain = without_comment(line.removeprefix("$ "))
        if plain:
            yield plain


def without_comment(line: str) -> str:
    """A line of shell up to its comment, which begins at a number sign of its own outside quotes."""
    quote = ""
    for place, sign in enumerate(line):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign == "#" and (place == 0 or line[place - 1].isspace()):
            return line[:place].strip()
    return line.strip()


def inline_commands(text: str) -> Iterator[list[str]]:
    """Calls of s3ray within sentences and tables, as words; what stands in capitals there is left as it is."""
    for quoted in re.findall(r"`([^`\n]+)`", _FENCE.sub("", text)):
        if quoted.startswith("s3ray ") and "..." not in quoted:
            yield shlex.split(quoted, comments=True)
