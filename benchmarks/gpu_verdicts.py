"""What `benchmarks.gpu` makes of its measurements: seconds for each part, and a verdict for each question. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s3ray.bench.search import GAIN
from s3ray.placement.sleep import sleep_limit_s

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartPlan:
    """One part of the program. ``weight`` is its share of the time; with less than ``least_s`` it is left out."""

    name: str
    weight: float
    least_s: float
    needs_gpu: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a part. ``problem`` says why its figures are missing or not complete; empty if they are whole.

    ``memory_before`` and ``memory_after`` are the MiB of GPU memory in use around it; None where there is no GPU.
    """

    name: str
    seconds: float = 0.0
    problem: str = ""
    figures: Figures = field(default_factory=dict)
    memory_before: int | None = None
    memory_after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to one question. ``holds`` is None where the measurements do not tell."""

    question: str
    holds: bool | None
    words: str


def allot(part: PartPlan, later: Sequence[PartPlan], left_s: float) -> float:
    """Seconds that a part may take: its share of what is left, but later parts keep what they need at least.

    Where there is not enough for all, parts that come first get what they need. 0 where that is more than is left.
    """
    share = part.weight / (part.weight + sum(each.weight for each in later))
    spare = left_s - sum(each.least_s for each in later)
    seconds = max(part.least_s, min(share * left_s, spare))
    return seconds if seconds <= left_s else 0.0


# -- verdicts ------------------------------------------------------------------------------------------------------

_LEFT_MIB = 200
"""MiB of memory that may differ when nothing of ours runs: what a display or a daemon takes meanwhile."""
_CONTEXT_MIB = 2048
"""MiB that may stay while an engine sleeps: CUDA's context, workspaces, what graphs hold outside of the pool."""
_SLEEP_S = sleep_limit_s(2, ())
"""How long s3ray waits at least for an engine to fall asleep."""


def verdicts(results: Mapping[str, Result]) -> list[Verdict]:
    """An answer to every question; None, with the reason, where its part has no figures for it."""
    return [
        _answer(question, results.get(part, Result(name=part, problem="it was not run")), judge)
        for question, part, judge in _QUESTIONS
    ] + [_memory(results)]


Judge = Callable[[Figures], tuple[bool | None, str]]


def _answer(question: str, result: Result, judge: Judge) -> Verdict:
    try:
        holds, words = judge(result.figures)
    except (KeyError, IndexError, statistics.StatisticsError):
        return Verdict(question=question, holds=None, words=result.problem or "not measured")
    return Verdict(question=question, holds=holds, words=words)


def _starts(figures: Figures) -> tuple[bool | None, str]:
    first = figures["first"]
    nvcc = "an nvcc" if figures["has_nvcc"] else "no nvcc"
    return True, f"ready in {first['seconds']:.1f} s on a machine with {nvcc}"


def _start_parts(figures: Figures) -> tuple[bool | None, str]:
    def told(start: Mapping[str, Any]) -> str:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in start["parts"].items())
        return f"{start['seconds']:.1f} s" + (f" ({parts})" if parts else "")

    first, again = figures["first"], figures["again"]
    return again["seconds"] <= 1.1 * first["seconds"], f"first {told(first)}; again {told(again)}"


def _stray(figures: Figures) -> tuple[bool | None, str]:
    processes = figures["gpu_processes"]
    return len(processes) <= 1, f"{len(processes)} process(es): {', '.join(map(str, processes)) or 'none is told'}"


def _against_vllm(figures: Figures) -> tuple[bool | None, str]:
    return _over(figures, "vllm", "uneven", 1.0)


def _against_ray_data(figures: Figures) -> tuple[bool | None, str]:
    return _over(figures, "ray_data", "uneven", 1.1)


def _prefix_against_ray_data(figures: Figures) -> tuple[bool | None, str]:
    return _over(figures, "ray_data", "prefix", 1.3)


def _over(figures: Figures, peer: str, part: str, least: float) -> tuple[bool | None, str]:
    ours, theirs = (figures["tokens_per_s"][name][part] for name in ("pool", peer))
    return ours / theirs >= least, f"{ours:.0f} over {theirs:.0f} tokens/s: {ours / theirs:.2f}"


def _limits(figures: Figures) -> tuple[bool | None, str]:
    best, setting, num = figures["ratio"], figures["setting"], figures["num_trials"]
    ended = "" if figures["complete"] else ", the search did not end"
    return best <= GAIN if best > GAIN or figures["complete"] else None, (
        f"best of {num} settings: {best:.2f} times as fast, {setting}{ended}"
    )


def _sleeps(figures: Figures) -> tuple[bool | None, str]:
    levels = [figures[name] for name in ("level_1", "level_2") if name in figures]
    words = "; ".join(
        f"level {level['level']}: asleep in {level['sleep_s']:.1f} s with {level['left_mib']} MiB, awake in "
        f"{level['wake_s']:.1f} s"
        for level in levels
    )
    stop_s = figures["start_s"] + figures["stop_s"]
    good = all(
        level["sleep_s"] < _SLEEP_S and level["left_mib"] < _CONTEXT_MIB
        and level["sleep_s"] + level["wake_s"] < stop_s and level["same_text"]
        for level in levels
    )  # fmt: skip
    return good and bool(levels), f"{words}; stop and start {stop_s:.1f} s"


def _halves(figures: Figures) -> tuple[bool | None, str]:
    tries = figures["kv_tokens"]
    worst = min(min(pair) / max(pair) for pair in tries)
    return worst >= 0.9, f"{len(tries)} times; the smaller KV cache held {worst:.0%} of the larger one's tokens or more"


def _students(figures: Figures) -> tuple[bool | None, str]:
    steps = figures["steps"]
    words = "; ".join(
        f"{each['batch']} rows in {each['format']}: {each['steps_per_s']:.1f} steps/s"
        + (f", {each['share_of_peak']:.1%} of the peak" if each.get("share_of_peak") else "")
        for each in steps
    )
    rows = {(each["batch"], each["format"]): each["steps_per_s"] * each["batch"] for each in steps}
    mixed = figures["mixed"]
    gain = rows[32, mixed] / rows[8, mixed]
    return gain >= 1.5, f"{words}; 32 rows a step train {gain:.2f} times as many rows/s as 8"


def _formats(figures: Figures) -> tuple[bool | None, str]:
    mixed = figures["mixed"]
    speed = {each["format"]: each["steps_per_s"] for each in figures["steps"] if each["batch"] == 32}
    if mixed == "float32":
        return None, "this device computes students in float32"
    ratio = speed[mixed] / speed["float32"]
    return ratio >= 0.95, f"{mixed} {ratio:.2f} times as fast as float32, 32 rows a step"


_QUESTIONS: tuple[tuple[str, str, Judge], ...] = (
    ("an engine starts (the sampler needs no CUDA toolkit)", "starts", _starts),
    ("a second start is not slower than the first (caches)", "starts", _start_parts),
    ("only the engine holds memory of the GPU", "starts", _stray),
    ("the pool is as fast as bare vLLM", "throughput", _against_vllm),
    ("the pool is 1.1 times as fast as Ray Data LLM", "throughput", _against_ray_data),
    ("with shared prefixes 1.3 times", "throughput", _prefix_against_ray_data),
    ("the default settings are within 5 % of the best found", "tuned", _limits),
    ("sleeping frees the memory, and costs less than a new start", "sleep", _sleeps),
    ("two engines that start together on one GPU get equal KV caches", "halves", _halves),
    ("a student has room for larger batches: 8 rows do not fill the device", "student", _students),
    ("the student's number format is one that the device computes", "student", _formats),
)
"""Question, part that answers it, and how."""


def _memory(results: Mapping[str, Result]) -> Verdict:
    question = "no memory of the GPU is left behind"
    measured = [(name, each.memory_before, each.memory_after) for name, each in results.items()]
    grown = {name: after - before for name, before, after in measured if before is not None and after is not None}
    if not grown:
        return Verdict(question=question, holds=None, words="there is no GPU")
    worst = max(grown, key=lambda name: grown[name])
    return Verdict(
        question=question,
        holds=grown[worst] <= _LEFT_MIB,
        words=f"most after {worst}: {grown[worst]} MiB more than before",
    )


def table(results: Sequence[Result], answers: Sequence[Verdict]) -> str:
    """Parts and verdicts as two Markdown tables."""
    parts = [("part", "seconds", "memory before, after (MiB)", "note")]
    for each in results:
        memory = "" if each.memory_before is None else f"{each.memory_before}, {each.memory_after}"
        parts.append((each.name, f"{each.seconds:.0f}", memory, each.problem))
    said = {True: "yes", False: "NO", None: "not told"}
    lines = [("question", "answer", "measured")]
    lines += [(each.question, said[each.holds], each.words) for each in answers]
    return "\n\n".join("\n".join(_markdown(rows)) for rows in (parts, lines))


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "/").replace("\n", " ") for cell in row] for row in rows]
    head, *rest = (f"| {' | '.join(row)} |" for row in cells)
    return [head, "|" + "---|" * len(rows[0]), *rest]
