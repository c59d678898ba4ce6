"""Every command on folders of runs that something broke: each ends with a message that names a file.

Broken are files of a run, a campaign and a profile: cut short, overwritten, mixed up, of other types, gone, folders in
their place. Nothing that needs a cluster or an engine is started.
"""

import functools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.breaking import Restored
from tests.security.fuzzing import LEAST_CASES, NUM_CASES, fuzz, make_calls_cheap, s3ray
from tests.security.worlds import make_runs

COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "status": (("status", "runs/rich"), ("status", "runs/campaign"), *[("status", "runs/run")] * 4),
    "watch": (("watch", "runs/rich"), ("watch", "runs/campaign"), *[("watch", "runs/run")] * 4),
    "report": (("report", "runs/run"), ("report", "runs/rich")),
    "export": (("export", "runs/run"), ("export", "runs/rich"), ("export", "runs/run", "--out", "runs/out")),
    "audit": (("audit", "runs/audit"),),
    "reparse": (("reparse", "runs/run"),),
    "bench-compare": (("bench-compare", "runs/old", "runs/new/profile.json"),),
    "compare again": (("compare", "runs/again/grid.yaml", "--out", "runs/again/out"),),
    "run again": (("run", "job.yaml", "--local", "--out", "runs/run"),),
}
READ_ONLY = ("status", "watch", "bench-compare", "audit")
NOT_READ = ("model.safetensors", "ray_train", "report.html", "timeline.json", ".lock", "tokenizer", "vocab.txt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    """The folders; ``runs/audit`` is a run whose student's model is gone, so that no checker is trained."""
    with pytest.MonkeyPatch.context() as patch:
        make_calls_cheap(patch)
        folder = tmp_path_factory.mktemp("world")
        patch.chdir(folder)
        make_runs(folder)
        yield Restored(folder / "runs")


def test_there_are_ten_thousand_cases() -> None:
    assert sum(NUM_CASES.values()) >= LEAST_CASES, f"{sum(NUM_CASES.values())} cases: {NUM_CASES}"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_broken_folder_ends_in_a_traceback(name: str, runs: Restored) -> None:
    for command in COMMANDS[name]:
        expected = (2, "student.model: there is no such") if name == "audit" else (0, "")
        code, text = s3ray(*command)
        runs.put_right()
        assert (code, expected[1] in text) == (expected[0], True), text

    def broken(draw: random.Random) -> tuple[str, ...]:
        command = draw.choice(COMMANDS[name])
        place = "runs/again" if name == "compare again" else next(each for each in command if each.startswith("runs/"))
        files = files_of(runs, name, place)
        if name == "run again" and draw.random() < 0.5:
            marker = Path(place, "rounds/1/round.json").absolute()
            marker.unlink()  # its journal is then read again
            files = [file for file in files if file != marker]
        for file in dict.fromkeys(draw.choice(files) for _ in range(draw.choice([1, 1, 1, 2]))):
            runs.spoil(file, draw)
        return command

    reads_only = name in READ_ONLY
    fuzz(name, broken, functools.partial(runs.put_right, only_spoilt=reads_only))
    assert runs.is_whole()


@functools.cache
def files_of(runs: Restored, name: str, place: str) -> list[Path]:
    """The files of a run that are worth breaking; where events matter most, these come more often."""
    files = [file for file in runs.files if file.is_relative_to(Path(place).absolute())]
    files = [file for file in files if not any(word in str(file) for word in NOT_READ)]
    events = [file for file in files if file.name == "events.jsonl"]
    return files + events * (len(files) if name in ("status", "watch") else 0)
