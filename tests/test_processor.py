"""What the CPU can do is read once, and said in the words of its maker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from s3ray.processor import cpu_flags, cpu_name, has_bfloat16


@pytest.fixture(autouse=True)
def unread() -> Iterator[None]:
    """No test reads what another one has read."""
    cpu_flags.cache_clear()
    yield
    cpu_flags.cache_clear()


@pytest.mark.parametrize(
    ("flags", "has_it"),
    [
        ({"avx2", "avx512f"}, False),
        ({"avx2", "avx512_bf16"}, True),
        ({"amx_bf16", "amx_tile"}, True),
        ({"asimd", "bf16"}, True),
        (set(), False),
    ],
)
def test_who_computes_with_bfloat16(flags: set[str], has_it: bool) -> None:
    assert has_bfloat16(flags) == has_it


@pytest.mark.parametrize("line", ["flags\t\t: fpu avx512_bf16", "Features\t: asimd bf16"])
def test_flags_of_x86_and_arm_are_read_once(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: f"processor\t: 0\n{line}\nbugs\t\t: spectre\n")
    read = cpu_flags()
    assert read >= set(line.split()[2:])
    assert not read & {"spectre", "processor"}
    monkeypatch.delattr(Path, "read_text")
    assert cpu_flags() is read


def test_where_linux_says_nothing_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(path: Path, encoding: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert cpu_flags() == frozenset()
    assert cpu_name() == ""


def test_the_name_is_the_maker_s(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\nmodel name\t: AMD EPYC 9B14: 96-Core\nprocessor\t: 1\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: text)
    assert cpu_name() == "AMD EPYC 9B14: 96-Core"
