"""Following a run or a campaign by its folder: what comes later is seen, and it ends when the run does."""

import io
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from s3ray.errors import InputError, RunError
from s3ray.monitor import campaign as watch
from s3ray.monitor.campaign import CampaignView, campaign_status, is_campaign, live_campaign, watch_run
from s3ray.storage.run_folder import RunStore
from s3ray.telemetry.events import EventLog, read_events
from tests.buckets import serve_bucket
from tests.events import an_event
from tests.monitor.run_folder import Clock, new_store, start_engines, start_run, write_chunk


class Story:
    """What happens while somebody watches: a step each time that the watcher pauses."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self.steps = list(steps)

    def __call__(self, seconds: float) -> None:
        assert self.steps, "the watcher waits for ever"
        self.steps.pop(0)()


def watched(store: RunStore, pause: Callable[[float], None] = Story()) -> list[str]:  # noqa: B008
    said = io.StringIO()
    watch_run(store, Console(file=said, width=100), pause)
    return said.getvalue().splitlines()


def shown(renderable: object) -> str:
    said = io.StringIO()
    Console(file=said, width=100).print(renderable)
    return said.getvalue()


def test_a_finished_run_is_told_from_its_beginning(finished: RunStore) -> None:
    lines = watched(finished)
    assert lines[0] == "[run] quickstart starts: s3 on review_sentences, 3 round(s)"
    assert lines[-1].startswith("[run] finished in")


@pytest.fixture(params=["folder", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a run may lie: a folder, an object store without a server, a bucket behind one."""
    if request.param == "s3":
        with serve_bucket() as bucket:
            for name, value in bucket.environment.items():
                monkeypatch.setenv(name, value)
            yield f"{bucket.url}/run"
    else:
        yield str(tmp_path / "run") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/run"


def test_what_comes_later_is_seen_once(place: str, clock: Clock) -> None:
    store, later = new_store(place), RunStore(place)
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)

    def begin() -> None:
        start_engines(log, clock)
        log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))

    def end() -> None:
        write_chunk(log, clock, 0, "seed", 0, 12, 200)
        log.emit(an_event("run_finished", seconds=5.0))

    lines = watched(later, Story(begin, lambda: None, end))
    assert [line.split("]")[0] for line in lines].count("[run") == 2
    assert sum("engine-0 ready" in line for line in lines) == 1


def test_a_line_that_is_being_written_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    log.emit(an_event("run_finished", seconds=5.0))
    path = tmp_path / "run" / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])

    def write_the_rest() -> None:
        path.write_bytes(whole)

    lines = watched(store, Story(lambda: None, write_the_rest))
    assert lines[-1] == "[run] finished in 5 s"


def test_a_failed_start_that_went_on_is_no_end(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    log.emit(an_event("run_failed", problem="no engine is left"))
    with pytest.raises(RunError, match="the run failed: no engine is left"):
        watched(store)
    again = EventLog(store, "quickstart", 2, clock)
    start_run(again, resumed=True)
    watched(store, Story(lambda: again.emit(an_event("run_finished", seconds=1.0))))


def test_nobody_is_waited_for_who_is_gone(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store(tmp_path / "run")
    start_run(EventLog(store, "quickstart", 1, clock))
    monkeypatch.setattr(watch, "GONE_S", 0.0)
    monkeypatch.setattr(watch, "_PATIENCE_S", {True: 1e9, False: 0.0, None: 1e9})
    with store.lock(), pytest.raises(AssertionError, match="waits for ever"):
        watched(store, Story(lambda: None))
    with pytest.raises(RunError, match="no driver is at work"):
        watched(store, Story(lambda: None))


def test_only_runs_and_campaigns_can_be_watched(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the folder of a run"):
        watched(RunStore(tmp_path))


def campaign(folder: Path, clock: Clock) -> tuple[RunStore, EventLog]:
    """Three runs: one finished, one under way, one not begun; events as ``campaign.compare`` passes them on."""
    own = RunStore(folder)
    log = EventLog(own, "grid", 1, clock)
    log.emit(an_event("campaign_started", runs=3, finished=0, made_by={}))
    for name in ("s3-0", "gold-0"):
        run = EventLog(RunStore(folder / name), name, 1, clock)
        (folder / name).mkdir()
        run.listen(log.pass_on)
        start_run(run, "s3" if name == "s3-0" else "gold")
        run.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
        clock.now += 10
        if name == "gold-0":
            seconds = {"start": 1.0, "train": 2.0, "score": 1.0}
            run.emit(an_event("student_started", round=0, rows=9, workers=1))
            run.emit(
                an_event(
                    "student_finished",
                    round=0,
                    select={"accuracy": 0.5},
                    seconds=seconds,
                    mined=None,
                    rows=9,
                    mistakes=None,
                )
            )
            run.emit(an_event("test_scored", round=0, test={"accuracy": 0.25}, num_examples=4))
            run.emit(an_event("run_finished", seconds=9.0))
    start_engines(log, clock)
    return own, log


def test_a_campaigns_status_has_a_line_for_each_run(tmp_path: Path, clock: Clock) -> None:
    own, log = campaign(tmp_path, clock)
    assert is_campaign(own)
    with own.lock():
        text = shown(campaign_status(own, clock.now))
    assert "3 runs: 1 running, 1 finished, 1 not begun" in text
    assert "2 ready" in text
    (gold,) = [line.split() for line in text.splitlines() if line.startswith("gold-0")]
    assert gold[1:8] == ["finished", "0/0", "accuracy", "0.500", "accuracy", "0.250", "10"]
    (s3,) = [line.split() for line in text.splitlines() if line.startswith("s3-0")]
    assert s3[1:4] == ["running", "0/2", "generate"]
    log.emit(an_event("campaign_finished", seconds=1.0, failed=[]))
    assert "finished" in shown(campaign_status(own, clock.now))


def test_a_run_that_went_on_alone_and_one_that_was_copied_count(tmp_path: Path, clock: Clock) -> None:
    own, _ = campaign(tmp_path, clock)
    new_store(tmp_path / "s3-0")
    EventLog(RunStore(tmp_path / "s3-0"), "s3-0", 2, clock).emit(an_event("run_finished", seconds=1.0))
    new_store(tmp_path / "copy-0").write_json("metrics.json", {})
    assert "3 runs: 3 finished" in shown(campaign_status(own, clock.now))


def test_a_campaign_whose_driver_is_gone_says_so(tmp_path: Path, clock: Clock) -> None:
    own, _ = campaign(tmp_path, clock)
    text = shown(campaign_status(own, clock.now))
    assert "no driver is at work" in text
    assert "1 interrupted, 1 finished, 1 not begun" in text


def test_a_campaign_is_watched_to_its_end(tmp_path: Path, clock: Clock) -> None:
    own, log = campaign(tmp_path, clock)
    failed = EventLog(RunStore(tmp_path / "s3-0"), "s3-0", 1, clock)
    failed.listen(log.pass_on)
    steps = Story(
        lambda: failed.emit(an_event("run_failed", problem="it rained")),
        lambda: log.emit(an_event("campaign_finished", seconds=1.0, failed=["s3-0"])),
    )
    said = io.StringIO()
    with pytest.raises(RunError, match=r"1 of 3 runs failed: s3-0"):
        watch_run(own, Console(file=said, width=100), steps)
    lines = said.getvalue().splitlines()
    assert "[s3-0] [run] s3-0 starts: s3 on review_sentences, 3 round(s)" in lines
    assert "[gold-0] [test] accuracy 0.250 on 4 examples" in lines
    assert "[s3-0] [run] failed: it rained" in lines


def test_a_campaign_that_a_signal_ended_says_so(tmp_path: Path, clock: Clock) -> None:
    own, log = campaign(tmp_path, clock)
    log.stop("stopped by SIGTERM")
    text = shown(campaign_status(own, clock.now))
    assert "stopped by SIGTERM, last event" in text
    assert "killed" not in text.partition("Go on")[0]
    with pytest.raises(RunError, match="the campaign was stopped by SIGTERM"):
        watch_run(own, Console(file=io.StringIO(), width=100), Story())
    again = EventLog(own, "grid", 2, clock)
    again.emit(an_event("campaign_started", runs=3, finished=1, made_by={}))
    assert not CampaignView.replay(read_events(own)).stopped


def test_a_run_that_a_signal_ended_ends_its_watch(tmp_path: Path, clock: Clock) -> None:
    store = new_store(tmp_path / "run")
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    log.stop("stopped by Ctrl-C")
    with pytest.raises(RunError, match="the run was stopped by Ctrl-C"):
        watched(store)


def test_the_live_table_of_a_campaign_has_what_is_under_way(tmp_path: Path, clock: Clock) -> None:
    own, _ = campaign(tmp_path, clock)
    text = shown(live_campaign(CampaignView.replay(read_events(own)), clock.now))
    assert "s3-0" in text
    assert "gold-0" not in text
    said = io.StringIO()
    log = EventLog(own, "grid", 1, clock)
    end = Story(lambda: log.emit(an_event("campaign_finished", seconds=1.0, failed=[])))
    watch_run(own, Console(file=said, width=100, force_terminal=True), end)
    assert "[gold-0] [run] finished in 9 s" in said.getvalue()
