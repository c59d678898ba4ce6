"""Folders that are hard on their pages: a long run that went badly, a run of hostile texts, a campaign with holes."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s3ray.campaign.intervals import Answers
from s3ray.campaign.report import write_comparison
from s3ray.campaign.results import Result
from s3ray.campaign.table import compare
from s3ray.config.grid import Campaign
from s3ray.config.job import RunConfig, to_yaml
from s3ray.config.shaping import data_shaping
from s3ray.monitor.metrics import DeviceSeconds, RoundMetrics, StageMetrics
from s3ray.report.audit import AUDIT
from s3ray.report.run import write_report
from s3ray.storage.run_folder import RunStore
from s3ray.tables import table_from_examples
from s3ray.telemetry.events import Event, EventLog
from s3ray.types import EngineReport, Example, FailureReason, Origin, RejectionReason, Source, Span
from tests.audit.defects import figures
from tests.campaign.test_table import STARTED
from tests.config.test_grid import load
from tests.events import an_event
from tests.monitor.run_folder import SCRIPT, Clock, be_ready, new_store, report, some_metrics, write_run

NUM_ROUNDS = 5
_CHUNK_S = 700
ENGINES = tuple(f"engine-{number}" for number in range(6))
_SPEED = dict.fromkeys(ENGINES, 520) | {"engine-3": 140}

ARABIC = "كان الطعام باردًا والخدمة بطيئة، ولن أعود إلى هذا المطعم مرة أخرى."
HEBREW = "השירות היה מצוין והאוכל היה טעים מאוד, נחזור בשמחה."
TURNED = "turned \u202eround by an override\u202c and back"
WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 4
ADDRESS = "https://example.org/" + "a" * 300 + "?q=" + "b" * 60
NASTY = (ARABIC, HEBREW, WORD, TURNED, ADDRESS, SCRIPT, "zero\u200bwidth\ttab\n\n\nlines", "A" * 419)


# -- a run that went badly -----------------------------------------------------------------------------------------


def write_bad_run(folder: Path) -> Path:
    """Six rounds whose scores fall in the end, rejections of all reasons, an engine lost, one given up, one slow."""
    store, clock = new_store(folder), Clock()
    log = EventLog(store, "reviews-of-three-kinds-with-a-small-model", 1, clock)
    _start(log, clock)
    for num in range(NUM_ROUNDS + 1):
        _write_round(store, log, clock, num)
        _write_student(store, log, clock, num)
    log.emit(an_event("run_finished", seconds=clock.now - Clock().now))
    audit = figures(NUM_ROUNDS + 1, exact_copies=31, near_copies=120, label_drift=0.31, told_apart=0.97)
    sentences = ["12 % of the rows are near copies of others.", "31 % of the rows would have to change their label."]
    store.write_json(AUDIT, {**audit, "rounds": list(range(NUM_ROUNDS + 1)), "findings": sentences})
    return Path(write_report(store))


def _start(log: EventLog, clock: Clock) -> None:
    log.emit(an_event(
        "run_started", task="review_sentences", strategy="s3", generator="Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4",
        student="distilbert-base-uncased", rounds=NUM_ROUNDS, engines=6, workers=4, version="0.1.0",
        fingerprint="0123456789abcdef", resumed=False,
    ))  # fmt: skip
    for name in ENGINES:
        log.emit(an_event("engine_starting", engine=name, nodes=["node-0"], restarts=0))
        clock.restarts[name] = 0
    for name in ENGINES:
        clock.now += 25
        be_ready(log, clock, name, 25.0)


def _write_round(store: RunStore, log: EventLog, clock: Clock, num: int) -> None:
    """Five chunks of a stage; every reason there is takes some, ``truncated`` most of all, and more each round."""
    stage, kept = ("seed", 12_000) if num == 0 else ("extrapolate", 4_800 - 700 * num)
    log.emit(an_event("stage_started", round=num, stage=stage, target=kept, known=0))
    rejected = {str(reason): 900 // (place + 1) for place, reason in enumerate(RejectionReason)}
    rejected |= {"truncated": 1200 + 1300 * num}
    failed = {str(reason): 3 for reason in FailureReason}
    for chunk in range(5):
        clock.now += _CHUNK_S
        clock.worked_s.update(dict.fromkeys(clock.ready, _CHUNK_S))
        if num == 1 and chunk == 2:
            _lose(log, clock, "engine-1", comes_back=True)
        if num == 2 and chunk == 1:
            _lose(log, clock, "engine-5", comes_back=False)
        told = {name: _told(clock, name) for name in clock.ready}
        log.emit(an_event(
            "chunk_written", round=num, stage=stage, chunk=f"rounds/{num}/chunks/{stage}-{chunk:06d}.parquet",
            rows=kept // 5, ok=kept // 5, rejected={}, failed={}, prompt_tokens=160_000, cached_tokens=120_000,
            output_tokens=sum(each.output_tokens for each in told.values()),
            accepted=kept // 5 * (chunk + 1), target=kept, starving=[], engines=told,
        ))  # fmt: skip
    counts: dict[str, Any] = {
        "requested": kept + sum(rejected.values()) + sum(failed.values()), "accepted": kept, "rejected": rejected,
        "failed": failed, "prompt_tokens": 800_000, "cached_tokens": 600_000, "output_tokens": kept * 78,
        "seconds": 5.0 * _CHUNK_S,
    }  # fmt: skip
    short = {"positive": 310} if num > 3 else {}
    rows = [_review(f"r{num}-{i}", i, Source.SEED if num == 0 else Source.EXTRAPOLATED, num) for i in range(150)]
    store.write_table(store.accepted(num), table_from_examples(rows, ("text",), True))
    store.write_table(store.rejected(num), _rejected(num, stage, [*rejected, *failed]))
    store.write_json(
        store.round_report(num),
        {"round": num, **counts, "rows": 12_000 + 3_000 * num, "stages": {stage: {**counts, "short": short}}},
    )
    log.emit(an_event("stage_finished", round=num, stage=stage, **counts, short=short, given_up=0))
    log.emit(an_event("round_closed", round=num, rows=12_000, requested=1, accepted=1, rejected={}, failed={}))


def _lose(log: EventLog, clock: Clock, engine: str, *, comes_back: bool) -> None:
    """It dies; and comes back after two minutes, or is given up."""
    log.emit(an_event(
        "engine_lost", engine=engine, problem="EngineCore ended", in_flight=14, poisoned=0,
        restarts=clock.restarts[engine], nodes=["node-0"],
    ))  # fmt: skip
    clock.now += 120
    if comes_back:
        clock.restarts[engine] += 1
        log.emit(an_event("engine_starting", engine=engine, nodes=["node-0"], restarts=clock.restarts[engine]))
        be_ready(log, clock, engine, 120.0)
    else:
        log.emit(an_event("engine_given_up", engine=engine, problem="died three times", running=5, wanted=6))
        del clock.ready[engine]


def _told(clock: Clock, engine: str) -> EngineReport:
    tokens = round(_CHUNK_S * _SPEED[engine])
    return report(clock, engine, 0.93, rows=100, output_tokens=tokens, waiting=40 if engine == "engine-3" else 2)


def _write_student(store: RunStore, log: EventLog, clock: Clock, num: int) -> None:
    is_last = num == NUM_ROUNDS
    score = (0.7125, 0.7625, 0.8, 0.7875, 0.7375, 0.6875)[num]
    seconds = {"start": 21.0, "train": 700.0 + 240 * num, "score": 12.0}
    epochs = [{"epoch": 1, "loss": 0.6, "select": score, "seconds": 60.0}]
    done = {"round": num, "rows": 12_000 + 3_000 * num, "best_epoch": 1, "epochs": epochs, "seconds": seconds}
    done |= {"select": {"accuracy": score, "macro_f1": score}, "mistakes": None if is_last else 24 + num}
    done |= {"mined": None if is_last else 120}
    log.emit(an_event("student_started", round=num, rows=done["rows"], workers=4))
    clock.now += sum(seconds.values())
    test = {"accuracy": 0.661, "macro_f1": 0.64} if is_last else None
    told = {**done, "mine": None, "test": test, "num_test": 150 if is_last else None, "main": "accuracy"}
    store.write_json(store.score(num), told)
    if not is_last:
        rows = [_review(f"gold-extrapolate-{7 * i % 120}", i, Source.GOLD) for i in range(24 + num)]
        wrong = [{"negative": "positive", "positive": "negative"}[row.label or ""] for row in rows]
        table = table_from_examples(rows, ("text",), True).append_column("predicted", [wrong])
        store.write_table(store.mistakes(num), table.append_column("confidence", [[0.9] * len(rows)]))
    log.emit(an_event("student_finished", **done))
    if is_last:
        log.emit(an_event("test_scored", round=num, test=test, num_examples=150))


def _review(id_: str, seed: int, source: Source, round_: int = 0) -> Example:
    draw = random.Random(f"{seed} {source}")
    words = [
        "the",
        "waiter",
        "brought",
        "cold",
        "soup",
        "and",
        "we",
        "had",
        "waited",
        "for",
        "an",
        "hour",
        "by",
        "then",
    ]
    draw.shuffle(words)
    text = " ".join(words * draw.randint(1, 5)).capitalize() + "."
    parent = f"gold-extrapolate-{7 * seed % 120}" if source is Source.EXTRAPOLATED else None
    label = "positive" if seed % (3 + round_) == 0 else "negative"
    origin = Origin(source=source, round=round_, parent=parent)
    return Example(id=id_, fields={"text": text}, label=label, origin=origin)


def _rejected(num: int, stage: str, reasons: Sequence[str], texts: Sequence[str] = ("Too long a story",)) -> pa.Table:
    rows: list[dict[str, str | None]] = []
    for i, reason in enumerate(list(reasons) * 3):
        text = texts[i % len(texts)]
        rows.append(
            {
                "request_id": f"q{num}-{i}", "stage": stage, "status": "rejected", "reason": reason,
                "detail": f"what was seen: {text[:60]}", "label": ("negative", "positive")[i % 2],
                "parent": f"gold-extrapolate-{7 * i % 120}" if num else None, "text": text, "raw": text,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows)


# -- a run of hostile texts ----------------------------------------------------------------------------------------


def write_hostile_run(folder: Path) -> Path:
    """An unfinished run of a span task, whose every text is one that breaks pages, and that failed with a long word."""
    config = RunConfig.model_validate(
        {
            "name": "n" * 100,
            "task": "squad",
            "strategy": {"name": "s3", "rounds": 2, "seed_examples": 200},
            "generator": {"engine": "vllm", "model": "models/" + "m" * 120, "engines": 2},
            "student": {"model": f"models/{WORD[:100]}"},
        }
    )
    store, clock = RunStore(folder), Clock()
    store.create(data_shaping(config), to_yaml(config))
    for part in ("extrapolate", "select", "test"):
        store.write_table(store.gold(part), _questions(part, Source.GOLD))
    log = EventLog(store, "n" * 100, 1, clock)
    log.emit(an_event(
        "run_started", task="squad", strategy="s3", generator="m" * 120, student=WORD[:100], rounds=2, engines=2,
        workers=1, version="0.1.0", fingerprint="0123456789abcdef", resumed=False,
    ))  # fmt: skip
    for num in range(2):
        _write_hostile_round(store, log, clock, num)
    log.emit(an_event("run_failed", problem=f"{ADDRESS} said: {WORD}"))
    return Path(write_report(store))


def _write_hostile_round(store: RunStore, log: EventLog, clock: Clock, num: int) -> None:
    stage = "extrapolate" if num else "seed"
    log.emit(an_event("stage_started", round=num, stage=stage, target=8, known=0))
    clock.now += 40
    counts: dict[str, Any] = {
        "requested": 12, "accepted": 8, "rejected": {"unparsable": 4}, "failed": {}, "prompt_tokens": 9,
        "cached_tokens": 0, "output_tokens": 80, "seconds": 40.0,
    }  # fmt: skip
    store.write_table(store.accepted(num), _questions(f"r{num}", Source.EXTRAPOLATED if num else Source.SEED))
    store.write_table(store.rejected(num), _rejected(num, stage, ["unparsable"] * 4, NASTY))
    row = {"round": num, **counts, "rows": 8 + 8 * num, "stages": {stage: {**counts, "short": {WORD: 3}}}}
    store.write_json(store.round_report(num), row)
    if num == 0:
        store.write_json(store.notes(0, "reasons"), {WORD: NASTY, ARABIC: NASTY})
        mistakes = _questions("extrapolate", Source.GOLD)
        wrong = list(reversed(NASTY))
        mistakes = mistakes.append_column("predicted", [wrong]).append_column("confidence", [[0.5] * len(wrong)])
        store.write_table(store.mistakes(0), mistakes)
    log.emit(an_event("stage_finished", round=num, stage=stage, **counts, short={}, given_up=0))


def _questions(name: str, source: Source) -> pa.Table:
    rows = [
        Example(
            id=f"gold-{name}-{i}",
            fields={"question": f"{text} {name}", "context": f"{NASTY[-1 - i]} {text}"},
            answers=(Span(text=text, start=len(NASTY[-1 - i]) + 1),),
            origin=Origin(source=source, parent=f"gold-extrapolate-{i}" if source is Source.EXTRAPOLATED else None),
        )
        for i, text in enumerate(NASTY)
    ]
    return table_from_examples(rows, ("question", "context"), False)


# -- a campaign ----------------------------------------------------------------------------------------------------

METHODS = ("gold", "zerogen", "goldgen", "progen", "s3_zerogen_seed", "minus_persistent_memory", "s3plus", "s3")
NUM_TEST = 200


def write_campaign(folder: Path) -> Path:
    """Eight methods on two tasks with two sizes and three seeds; some runs are missing, one method costs nothing."""
    folder.mkdir(parents=True)
    axes = {
        "method": {name: {"strategy.name": "zerogen"} for name in METHODS},
        "task": {"reviews": {}, "pairs": {"task": "qnli"}},
        "size": {"few": {"strategy.rows": 60}, "many": {"strategy.rows": 600}},
    }
    campaign = load(folder, name="methods-on-two-tasks", axes=axes, seeds=[0, 1, 2])
    missing = ("goldgen-pairs-many-2", "s3plus-reviews-few-1")
    results = {run.name: _result(run.cell, run.seed) for run in campaign.runs if run.name not in missing}
    store = RunStore(folder / "out")
    for name in list(results)[:30]:
        store.write_text(f"{name}/report.html", "<!doctype html><title>A run</title>")
    write_comparison(store, campaign, compare(campaign, results), results, [STARTED, *_campaign_events(campaign)])
    return Path(store.path("compare.html"))


def _result(cell: dict[str, str], seed: int) -> Result:
    place = METHODS.index(cell["method"])
    score = 0.62 + 0.025 * place + (0.04 if cell["size"] == "many" else 0.0) - 0.09 * (cell["task"] == "pairs")
    chance = np.random.default_rng([seed, place])
    right = (chance.random(NUM_TEST) < score).astype(np.float64)
    seconds = 40.0 * 3**place if place else 0.0
    entry = RoundMetrics(
        round=0, rows=600 if cell["size"] == "many" else 60, requested=900, accepted=600,
        rejected={"truncated": 200, "duplicate": 90}, failed={"timeout": 10},
        stages={"seed": StageMetrics(output_tokens=48_000 * place)},
        device_s=DeviceSeconds(generate=seconds, train=95.0),
    )  # fmt: skip
    metrics = some_metrics(
        task=cell["task"], metric="accuracy", generator="Qwen/Qwen3-8B", rounds=(entry,),
        test={"accuracy": float(right.mean())}, num_test=NUM_TEST,
    )  # fmt: skip
    ids = tuple(f"{cell['task']}-{number}" for number in range(NUM_TEST))
    return Result(metrics=metrics, answers=Answers(ids=ids, scores=right), label_accuracy=0.93)


def _campaign_events(campaign: Campaign) -> list[Event]:
    """Two engines serve the first ten runs, one after the other; engine-1 is lost on the way."""
    about: dict[str, Any] = {"run": campaign.config.name, "attempt": 1}
    seconds = {"start": 4.0, "train": 50.0, "score": 6.0}
    events = [
        an_event("campaign_started", **about, time=0.0),
        *(an_event("engine_starting", **about, time=0.0, engine=name, restarts=0) for name in ENGINES[:2]),
        *(an_event("engine_ready", **about, time=30.0, engine=name) for name in ENGINES[:2]),
    ]
    busy: Counter[str] = Counter()
    for place, run in enumerate(campaign.runs[:10]):
        own: dict[str, Any]
        own, start = {"run": run.name, "attempt": 1}, 30.0 + 100 * place
        events.append(an_event("stage_started", **own, time=start, round=0, stage="seed"))
        busy.update({"engine-0": 38, "engine-1": 21})
        told = {name: {"busy_s": float(busy[name]), "restarts": 0} for name in ENGINES[: 1 if place > 6 else 2]}
        events.append(an_event("answers_dealt", **about, time=start + 40, engines=told))
        if place == 6:
            events.append(an_event("engine_lost", **about, time=start + 40, engine="engine-1"))
        events.append(an_event("stage_finished", **own, time=start + 40, round=0, stage="seed"))
        events.append(an_event("student_started", **own, time=start + 40, round=0, workers=2))
        events.append(an_event("student_finished", **own, time=start + 100, round=0, seconds=seconds))
    return [*events, an_event("campaign_finished", **about, time=1040.0)]


def write_pages(folder: Path) -> dict[str, Path]:
    """All pages that are looked at, by name."""
    return {
        "run": Path(write_report(write_run(folder / "run"))),
        "bad-run": write_bad_run(folder / "bad-run"),
        "hostile-run": write_hostile_run(folder / "hostile-run"),
        "begun-run": Path(write_report(new_store(folder / "begun-run"))),
        "comparison": write_campaign(folder / "campaign"),
    }
