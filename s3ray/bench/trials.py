"""What `s3ray bench --tune` keeps: a file for each trial, tune.json and tune.md at the end. Pure but for files.

docs/bench.md explains the fields.
"""

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from pydantic import Field, JsonValue

from s3ray.bench.profile import CellProfile, Identity, Part, num_seqs
from s3ray.bench.search import GAIN, Candidate, Changes, Finding
from s3ray.bench.tuned import plain
from s3ray.config.shaping import data_changes
from s3ray.errors import InputError
from s3ray.redaction import mask
from s3ray.storage.run_folder import RunStore

SCHEMA = 1
TUNING = "tune.json"
TABLE = "tune.md"

P = TypeVar("P", bound=Part)


class Trial(Part):
    """One candidate: measured, tried without success, or left out, and then ``problem`` says why.

    ``cells`` are its measurements, each of other requests, the same ones for all trials. See ``Candidate``.
    """

    axis: str
    setting: str
    changes: dict[str, JsonValue]
    on_top: tuple[str, ...]
    best: float
    lossy: bool
    tried: bool
    cells: tuple[CellProfile, ...] = ()
    problem: str = ""

    def ratio(self, own: "Trial") -> float | None:
        """How many times as fast as the job's own settings: median over the measurements, each beside the same one."""
        pairs = list(zip(self.cells, own.cells, strict=False))
        return statistics.median(speed(cell) / speed(first) for cell, first in pairs) if pairs else None

    def finding(self, own: "Trial") -> Finding:
        """What the search is told."""
        if not self.cells:
            return Finding(ratio=None)
        limits = self.cells[0].limits or {}
        caches = [cell.cache for cell in self.cells if cell.cache is not None]
        peaks = [cache.kv_use.peak for cache in caches if cache.kv_use is not None]
        return Finding(
            ratio=self.ratio(own),
            max_num_seqs=limits.get("max_num_seqs", num_seqs(self.cells[0].max_num_seqs)),
            max_num_batched_tokens=limits.get("max_num_batched_tokens", 0),
            kv_peak=max(peaks, default=None),
            num_preemptions=sum(cache.preemptions for cache in caches),
        )


class Start(Part):
    """How a search was begun, so that it can go on: what must not change, and what all trials share.

    ``asked`` is what ``--requests`` said, ``requests`` how many each measurement has: fewer, if the strategy does not
    make so many. They are made again from ``prompt_notes`` and their number in all, ``total``.
    """

    settings: dict[str, JsonValue]
    cluster: str
    asked: int | None
    requests: int
    total: int
    prompt_notes: dict[str, dict[str, list[str]]]
    calibration: dict[str, JsonValue] | None
    identity: Identity
    notes: tuple[str, ...]

    def differences(self, settings: Mapping[str, JsonValue], cluster: str, asked: int | None) -> str:
        """What is not as it was when the search began, in words; empty if nothing is."""
        told = data_changes(self.settings, settings)
        if cluster != self.cluster:
            told.append(f"the cluster was {self.cluster}, is {cluster}")
        if asked not in (None, self.asked, self.requests):
            told.append(f"--requests was {self.requests}, is {asked}")
        return "; ".join(told)


class Pair(Part):
    """The job's own settings and the best, measured one after the other with the same requests."""

    own: CellProfile
    best: CellProfile

    @property
    def ratio(self) -> float:
        """How many times as fast the best were."""
        return speed(self.best) / speed(self.own)


class Tuning(Part):
    """The whole of tune.json. ``ratio`` is the median of ``final``; 1 where nothing gained and there is none."""

    version: int = Field(default=SCHEMA, alias="schema")
    identity: Identity
    requests: int
    trials: tuple[Trial, ...]
    final: tuple[Pair, ...]
    changes: dict[str, JsonValue]
    ratio: float
    notes: tuple[str, ...]

    @property
    def is_real(self) -> bool:
        """Whether the engines compute anything."""
        return all(cell.validity.real_engine for trial in self.trials for cell in trial.cells)

    @property
    def gains(self) -> bool:
        """Whether the best settings are worth a job file of their own."""
        return bool(self.changes) and self.ratio > GAIN


def speed(cell: CellProfile) -> float:
    """Output tokens per second, from the first request to the last answer."""
    return cell.whole.output_tokens_per_s


def trial_of(candidate: Candidate, cells: Sequence[CellProfile] = (), problem: str = "") -> Trial:
    """The trial of a candidate, with what was measured, or why not."""
    return Trial(
        axis=candidate.axis,
        setting=candidate.setting,
        changes=dict(candidate.changes),
        on_top=candidate.on_top,
        best=candidate.best,
        lossy=candidate.lossy,
        tried=not candidate.problem,
        cells=tuple(cells),
        problem=candidate.problem or problem,
    )


def changes_name(changes: Changes) -> str:
    """A short name for settings: the same for the same ones."""
    return hashlib.sha256(json.dumps(dict(changes), sort_keys=True).encode()).hexdigest()[:16]


def trial_name(candidate: Candidate) -> str:
    """The name of its file."""
    return f"trials/{changes_name(candidate.changes)}.json"


def read_part(store: RunStore, name: str, kind: type[P]) -> P | None:
    """What was written before; None if it was not.

    Raises:
        InputError: the file is not what this version writes.
    """
    if not store.has(name):
        return None
    try:
        return kind.model_validate_json(json.dumps(store.read_json(name)))
    except ValueError as error:
        hint = "Move it away; what it held is then measured again."
        raise InputError("is not a file of this version", where=store.url(name), hint=hint) from error


def write_part(store: RunStore, name: str, part: Part) -> None:
    """Write a trial, a pair or the whole, without secrets; it is there whole or not at all."""
    store.write_json(name, mask(part.model_dump(mode="json")))


# -- the table -----------------------------------------------------------------------------------------------------

_HEAD = ("setting", "on top of", "tokens/s", "of the job's", "of the best before", "measured", "start s", "note")


def table(tuning: Tuning) -> str:
    """How much each setting gave, in Markdown."""
    identity = tuning.identity
    texts = (
        f"# {identity.job}: what each setting gives",
        f"{identity.model or identity.engine} on {identity.cluster}; {tuning.requests} requests for each measurement, "
        "the same ones for all settings. tokens/s: output tokens per second, from the first request to the last "
        f"answer; medians, and ratios are medians over the same requests. More than {GAIN:.2f} of the best before is a "
        "gain, and what follows is tried on top of it; what is behind the best is measured once.",
        "\n".join(_markdown([_HEAD, *_rows(tuning)])),
        "" if tuning.is_real else "The fake engine computes nothing: its speeds mean nothing.",
        verdict(tuning),
    )
    return "\n\n".join(text for text in texts if text) + "\n"


def verdict(tuning: Tuning) -> str:
    """What came out, in words."""
    if not tuning.changes:
        return f"Nothing gains more than {GAIN - 1:.0%}: the job's own settings are the best that were found."
    pairs = ", ".join(f"{speed(pair.best):.1f} beside {speed(pair.own):.1f}" for pair in tuning.final)
    told = f"{tuning.ratio:.2f} times as fast as the job's own (median; tokens/s side by side: {pairs})"
    if not tuning.gains:
        return f"In turns with the job's own settings the best are {told}: not worth a change."
    return f"The best settings are {told}: {in_words(tuning.changes)}"


def in_words(changes: Changes) -> str:
    """Settings on one line, as they stand in a job file."""
    return ", ".join(f"`{field}: {plain(value)}`" for field, value in changes.items())


def _rows(tuning: Tuning) -> Iterator[tuple[str, ...]]:
    own = tuning.trials[0]
    for trial in tuning.trials:
        ratio, cells = trial.ratio(own), trial.cells
        notes = [trial.problem, *dict.fromkeys(f"not {flag}" for cell in cells for flag in _flags(cell))]
        if trial.lossy and not trial.problem:
            notes.append("changes what is written")
        yield (
            trial.setting,
            " + ".join(trial.on_top),
            f"{statistics.median(map(speed, cells)):.1f}" if cells else "",
            "" if ratio is None else f"{ratio:.2f}",
            "" if ratio is None or trial is own else f"{ratio / trial.best:.2f}",
            f"{len(cells)} x" if cells else "failed" if trial.tried else "left out",
            f"{cells[0].start_s:.0f}" if cells else "",
            "; ".join(note for note in notes if note),
        )


def _flags(cell: CellProfile) -> list[str]:
    """What is wrong with a measurement; how long its steady window was matters little where whole phases compare."""
    return [flag for flag in cell.validity.false if flag not in ("long_enough", "real_engine")]


def _markdown(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table whose columns are as wide as they must be."""
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    for place, line in enumerate(escaped):
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        if place == 0:
            yield "|" + "|".join("-" * (width + 2) for width in widths) + "|"
