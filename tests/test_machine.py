"""Memory of a GPU that changes hands: waited for as long as it comes free, and not for ever."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from s3ray.errors import DeviceMemoryError
from s3ray.machine import LIMIT_S, cpu_flags, cpu_name, has_bfloat16, student_bytes, wait_for_memory

GIB = 2**30


class Card:
    """80 GiB of which so many are free, reading by reading; the last one stays. A reading takes no time, a nap does."""

    def __init__(self, free_gib: Sequence[float]) -> None:
        self.now = 0.0
        self.num_readings = 0
        self._free = list(free_gib)

    def read(self) -> tuple[int, int]:
        self.num_readings += 1
        free = self._free.pop(0) if len(self._free) > 1 else self._free[0]
        return int(free * GIB), 80 * GIB

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, needed_gib: float) -> None:
        needed = int(needed_gib * GIB)
        wait_for_memory("a student", "cuda:0 on node-7", needed, self.read, clock=lambda: self.now, sleep=self.sleep)


def test_a_free_card_is_not_waited_for() -> None:
    card = Card([79])
    card.wait(4)
    assert (card.num_readings, card.now) == (1, 0)


@pytest.mark.parametrize(
    ("free", "readings"),
    [
        ([5, 8, 40, 79], 4),  # enough from the start, but the engine is still on its way out
        ([5, 8, 40, 40.2], 4),  # the rest belongs to somebody else and stays
        ([1, 1, 1, 79], 4),  # settled, but not enough
    ],
)
def test_an_engine_on_its_way_out_is_waited_for(free: list[float], readings: int) -> None:
    card = Card(free)
    card.wait(4)
    assert card.num_readings == readings


def test_memory_that_never_comes_free_is_named() -> None:
    card = Card([3])
    with pytest.raises(DeviceMemoryError, match=r"a student needs 4.0 GiB of cuda:0 on node-7.* 3.0 of 80.0 GiB"):
        card.wait(4)
    assert card.now == LIMIT_S


def test_a_restless_card_with_enough_is_taken_at_the_limit() -> None:
    card = Card([20 + 10 * (num % 2) for num in range(300)])
    card.wait(4)
    assert card.now == LIMIT_S


def test_a_student_needs_its_weights_four_times_and_a_gib() -> None:
    assert student_bytes(GIB) == 5 * GIB


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
