"""GPUs before an engine starts on them: turns, memory, and drivers that are too old. NVML is a small pretended one."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from s3ray.errors import DeviceMemoryError, EngineStartError
from s3ray.generator.engines.gpus import Gpus, Turn, fitting_share
from tests.generator.engines.nvml import GIB, Nvml


def test_each_gpu_is_waited_for_by_name_and_amount() -> None:
    waited: list[tuple[str, str, int, tuple[int, int]]] = []
    gpus = Gpus(Nvml((20, 3)), [0, 1])
    gpus.wait("engine-0", [10, 11], lambda who, where, needed, read: waited.append((who, where[:5], needed, read())))
    assert waited == [
        ("engine-0", "GPU 0", 10, (20 * GIB, 24 * GIB)),
        ("engine-0", "GPU 1", 11, (3 * GIB, 24 * GIB)),
    ]
    assert gpus.free() == [20 * GIB, 3 * GIB]
    assert gpus.uuids == ["GPU-9", "GPU-8"]


@pytest.mark.parametrize("cuda", [13000, 13020, 14000])
def test_a_driver_of_the_same_cuda_or_a_later_one_will_do(cuda: int) -> None:
    Gpus(Nvml(cuda=cuda), [0]).check("13.0")


def test_an_old_driver_is_named_before_anything_is_loaded() -> None:
    with pytest.raises(EngineStartError, match=r"driver 570\.86\.10 of .* made for CUDA 12\.8.* needs CUDA 13") as told:
        Gpus(Nvml(cuda=12080), [0]).check("13.0")
    assert told.value.is_final
    assert "R580" in told.value.hint


def test_a_gpu_that_cuda_has_no_code_for_is_named() -> None:
    with pytest.raises(EngineStartError, match=r"GPU 1 on .* compute capability 7\.0") as told:
        Gpus(Nvml(capability=(7, 0)), [1]).check("13.0")
    assert told.value.is_final
    Gpus(Nvml(capability=(7, 0)), [1]).check("12.8")


def test_a_torch_without_cuda_asks_for_no_driver() -> None:
    Gpus(Nvml(cuda=11000), [0]).check(None)


def test_engines_that_share_a_small_gpu_leave_room_for_their_contexts() -> None:
    quarter = fitting_share(0.9 / 4, 1 / 4, 24 * GIB)
    assert 4 * (quarter * 24 + 0.7) <= 24
    assert quarter > 0.2
    assert fitting_share(0.9 / 2, 1 / 2, 80 * GIB) == 0.45, "there is room on a large one"
    assert fitting_share(0.9, 1.0, 8 * GIB) == 0.9, "vLLM counts one context of its own within what is left"


class Starts:
    """Engines that start in threads: which are at it at once, in the order of their beginnings.

    ``meeting``: those that are not the first of their configuration wait for each other while they start.
    """

    def __init__(self, folder: Path, meeting: threading.Barrier | None = None) -> None:
        self._folder = folder
        self._meeting = meeting
        self.at_once: list[set[str]] = []
        self._starting: set[str] = set()
        self._guard = threading.Lock()

    def start(self, engine: str, uuids: Sequence[str], configuration: str, *, fails: bool = False) -> None:
        turn, first = Turn(engine, 20.0, self._folder / "locks"), self._folder / "cache" / configuration
        turn.take(uuids, first)
        with self._guard:
            self._starting.add(engine)
            self.at_once.append(set(self._starting))
        if self._meeting is not None and first.exists():
            self._meeting.wait(20.0)
        else:
            threading.Event().wait(0.02)
        with self._guard:
            self._starting.discard(engine)
        turn.end(is_ready=not fails)

    def all_at_once(self, wanted: Sequence[tuple[str, Sequence[str], str]]) -> None:
        threads = [threading.Thread(target=self.start, args=each) for each in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @property
    def most(self) -> int:
        return max(map(len, self.at_once))


def test_two_engines_never_start_on_one_gpu_at_once(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    starts.start("engine-9", [], "same")
    starts.all_at_once([(f"engine-{number}", ["GPU-1"], "same") for number in range(3)])
    assert (len(starts.at_once), starts.most) == (4, 1)


def test_the_first_start_of_a_configuration_is_made_alone_and_the_others_at_once(tmp_path: Path) -> None:
    first, starts = Turn("engine-0", 20.0, tmp_path / "locks"), Starts(tmp_path, threading.Barrier(3))
    first.take(["GPU-0"], tmp_path / "cache" / "same")
    others = [threading.Thread(target=starts.start, args=(f"engine-{n}", [f"GPU-{n}"], "same")) for n in (1, 2, 3)]
    for other in others:
        other.start()
    threading.Event().wait(0.2)
    assert starts.at_once == [], "they wait for the first"
    first.end(is_ready=True)
    for other in others:
        other.join()
    assert (len(starts.at_once), starts.most) == (3, 3)


def test_another_configuration_does_not_wait_for_it(tmp_path: Path) -> None:
    first = Turn("engine-0", 20.0, tmp_path / "locks")
    first.take(["GPU-0"], tmp_path / "cache" / "one")
    Starts(tmp_path).start("engine-1", ["GPU-1"], "other")
    first.end(is_ready=True)


def test_an_engine_that_waits_for_one_gpu_does_not_hold_a_later_one(tmp_path: Path) -> None:
    """Whatever the order in which they are named: else two engines could wait for each other for ever."""
    holder, starts = Turn("engine-0", 20.0, tmp_path / "locks"), Starts(tmp_path)
    holder.take(["GPU-0"], tmp_path / "one")
    waiting = threading.Thread(target=starts.start, args=("engine-1", ["GPU-1", "GPU-0"], "other"))
    waiting.start()
    threading.Event().wait(0.2)
    third = Turn("engine-2", 0.01, tmp_path / "locks")
    third.take(["GPU-1"], tmp_path / "third")
    third.end(is_ready=True)
    holder.end(is_ready=True)
    waiting.join()
    assert len(starts.at_once) == 1


def test_a_failed_first_start_is_none(tmp_path: Path) -> None:
    starts = Starts(tmp_path)
    starts.start("engine-0", ["GPU-0"], "same", fails=True)
    assert not (tmp_path / "cache" / "same").exists()
    starts.start("engine-1", ["GPU-0"], "same")
    assert (tmp_path / "cache" / "same").exists()


def test_a_turn_that_never_comes_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    holder = Turn("engine-0", 5.0, tmp_path)
    holder.take(["GPU-0"], tmp_path / "one")
    with pytest.raises(DeviceMemoryError, match=r"engine-1 waited 0 s .* for GPU-0 on "):
        Turn("engine-1", 0.01, tmp_path).take(["GPU-0"], tmp_path / "other")
    holder.end(is_ready=True)
    holder.end(is_ready=True)
    Turn("engine-1", 0.5, tmp_path).take(["GPU-0"], tmp_path / "other")
