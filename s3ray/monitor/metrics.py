"""metrics.json: what a run came to, in numbers, gathered from the files of its folder.

Invariant: every round balances (requested = accepted + rejected + failed), or there is no metrics.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s3ray.errors import StoreError
from s3ray.monitor.accounting import account, shares
from s3ray.monitor.devices import busy_seconds, per_engine, training_s
from s3ray.monitor.engines import Usage
from s3ray.monitor.view import RunView
from s3ray.store import CHECKER_SCORE, RunStore
from s3ray.types import RoundReport

SCHEMA = 1
_NOTHING_WRITTEN: dict[str, Any] = {
    "requested": 0,
    "accepted": 0,
    "rejected": {},
    "failed": {},
    "prompt_tokens": 0,
    "cached_tokens": 0,
    "output_tokens": 0,
    "seconds": 0.0,
    "stages": {},
}


def run_identity(store: RunStore) -> dict[str, Any]:
    """Which run this is, read from its folder: the keys that ``build_metrics`` puts in front of the numbers."""
    config = store.read_config()
    generator, name = config["generator"], config["strategy"]["name"]
    span = store.has(store.gold("select")) and "answers" in store.read_table(store.gold("select")).column_names
    return {
        "run": config["name"],
        "task": _task_name(config["task"]),
        "kind": "span" if span else "classification",
        "strategy": name,
        "generator": None if name == "gold" else generator["model"] or generator["engine"],
        "student": config["student"]["model"],
        "seed": config["seed"],
        "engines": generator["engines"],  # asked for; those that were placed are in ``run_started``
        "workers": config["student"]["workers"],
        "fingerprint": store.read_json("fingerprint.json")["fingerprint"],
    }


def build_metrics(store: RunStore, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The content of metrics.json (schema 1), of a finished run or of what there is of an unfinished one.

    ``identity`` holds the keys of ``run_identity``. A round counts once its round.json or score.json is on disk;
    scores and mistakes are None while its student is not trained. ``checker`` is None where no row is weighed.

    Raises:
        StoreError: a file cannot be read, or a round does not balance.
    """
    events, config = list(store.events()), store.read_config()
    busy_s, devices = busy_seconds(events), per_engine(config)
    view, booked = RunView.replay(events), account(events)
    students = {num: store.read_json(store.score(num)) for num in store.students()}
    written = {num: store.read_json(store.round_report(num)) for num in store.rounds()}
    rounds = []
    for num in sorted({*students, *written}):
        row = written.get(num, _NOTHING_WRITTEN)
        # The events know the seconds of all attempts, and which of them were spent waiting for engines.
        generate_s = view.spent.get((num, "generate"), row["seconds"])
        rounds.append(_round(row, students.get(num), num, generate_s, view.spent[num, "engines"]))
        rounds[-1]["device_s"] = {
            "generate": None if devices is None else busy_s.get(num, 0.0) * devices,
            "train": training_s(students[num]["seconds"], config["student"]["workers"]) if num in students else 0.0,
        }
    last = students[max(students)] if students else None
    checker = store.read_json(CHECKER_SCORE) if store.has(CHECKER_SCORE) else None
    all_seconds = [row["seconds"] for row in rounds] + ([checker["seconds"]] if checker else [])
    phases = ("generate", "train", "score", "start")
    return {
        "schema": SCHEMA,
        **identity,
        "metric": last["main"] if last else None,
        "rounds": rounds,
        "test": {**last["test"], "num_examples": last["num_test"]} if last and last["test"] else None,
        "seconds": {"total": view.total_s} | {phase: sum(s.get(phase, 0.0) for s in all_seconds) for phase in phases},
        "checker": {name: checker[name] for name in ("rows", "best_epoch", "select", "seconds")} if checker else None,
        "attempts": view.attempt,
        "engines_lost": view.num_lost,
        "pool": {
            "engines": {
                name: {"state": view.engines.get(name), **_usage(engine.usage)}
                for name, engine in view.pool.by_name.items()
            },
            "total": _usage(view.pool.usage),
        },
        "engine_busy_share": booked.engine_busy_share,
        "engine_start_s": booked.engine_start_s,
        "time": {
            "engines": {lane.name: shares([lane]) for lane in booked.engines},
            "trainers": {lane.name: {"workers": lane.num, **shares([lane])} for lane in booked.trainers},
            "total": shares(booked.lanes),
        },
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "rows": usage.rows,
        "output_tokens": usage.output_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "prefix_hit_rate": usage.prefix_hit_rate,
        "peak_running": usage.peak.running,
        "peak_waiting": usage.peak.waiting,
        "peak_kv_use": usage.peak.kv_use,
        "preemptions": usage.preemptions,
        "restarts": usage.restarts,
        "busy_share": usage.busy_share,
    }


def _task_name(task: str) -> str:
    """A task given as a file goes by the file's name: metrics and cards are passed on, and no path belongs in them."""
    return Path(task).stem if task.endswith((".yaml", ".yml")) else task


def _round(
    written: Mapping[str, Any], student: Mapping[str, Any] | None, num: int, generate_s: float, waited_s: float
) -> dict[str, Any]:
    _check_balance(num, written)
    seconds = student["seconds"] if student else {"start": 0.0, "train": 0.0, "score": 0.0}
    copied = ("requested", "accepted", "rejected", "failed", "prompt_tokens", "cached_tokens", "output_tokens")
    mined = student["mined"] if student else None
    # The rate counts the tokens of every stage that took time; the round's own counts leave notes out.
    tokens = sum(stage["output_tokens"] for stage in written["stages"].values())
    return {
        "round": num,
        **{name: written[name] for name in copied},
        "output_tokens_per_s": tokens / generate_s if generate_s else None,
        "rows": student["rows"] if student else written.get("rows", 0),
        "select": student["select"] if student else None,
        "mistakes": student["mistakes"] if student and mined is not None else None,
        "mined": mined,
        "best_epoch": student["best_epoch"] if student else None,
        "seconds": {
            "generate": generate_s,
            "train": seconds["train"],
            "score": seconds["score"],
            "start": seconds["start"] + waited_s,
        },
        "stages": written["stages"],
    }


def _check_balance(num: int, written: Mapping[str, Any]) -> None:
    try:
        RoundReport(
            round=num,
            requested=written["requested"],
            accepted=written["accepted"],
            rejected=written["rejected"],
            failed=written["failed"],
            num_prompt_tokens=written["prompt_tokens"],
            num_cached_tokens=written["cached_tokens"],
            num_output_tokens=written["output_tokens"],
            generate_s=written["seconds"],
        )
    except ValueError as error:
        raise StoreError(str(error), hint="This is a defect of s3ray: please report it with the run folder.") from error
