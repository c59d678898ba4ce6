"""profile.json, schema 2: its fields, how it is written and how it is read. docs/bench.md explains every field.

A value that is not available is null, and ``Profile.notes`` has the reason, by the path of the value:
``cells.0.mfu: the device is no GPU, and its peak is not known``.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from s3ray.errors import InputError, StoreError
from s3ray.redaction import mask
from s3ray.storage.local import join, split
from s3ray.storage.run_folder import RunStore

SCHEMA = 2
PROFILE = "profile.json"

Key = tuple[int, int, str, int]
"""Engines, sequences, prompts and requests: what makes a cell of one profile, or of one repeat, that of another."""


T = TypeVar("T")


class UnknownError(Exception):
    """A figure is not available; the text is the reason."""


def known(notes: list[str], path: str, figure: Callable[[], T]) -> T | None:
    """The figure; None, and a note, where making it raises ``UnknownError``."""
    try:
        return figure()
    except UnknownError as error:
        notes.append(f"{path}: {error}")
        return None


class Part:
    """A part of a profile. Reading is strict: unknown fields and numbers that are not finite are errors."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Part):
    """What was measured, where, and with which code; ``device`` is that of one engine."""

    job: str
    task: str
    strategy: str
    fingerprint: str
    engine: str
    model: str | None
    dtype: str | None
    parameters: int | None
    prompt_form: str
    sampling: dict[str, float | int]
    tensor_parallel: int
    pipeline_parallel: int
    cluster: str
    nodes: int
    cpus: int
    gpus: int
    device: str
    device_name: str | None
    devices_per_engine: float | None
    versions: dict[str, str]
    commit: str
    command: str
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep(Part):
    """How it was measured: all engine counts with all limits and all sets of prompts, ``repeats`` times.

    Every cell has ``requests`` requests (strong scaling). Where several engine counts are swept, each larger one is
    also measured with so many more requests as it has more engines than the smallest (weak scaling). Cells whose steady
    window is shorter than ``min_seconds`` are flagged.
    """

    engines: tuple[int, ...]
    max_num_seqs: tuple[int, ...]
    prompts: tuple[str, ...]
    requests: int
    repeats: int
    min_seconds: float

    @property
    def base_engines(self) -> int:
        """The smallest engine count, to which the others are compared."""
        return min(self.engines)

    def weak_requests(self, engines: int) -> int:
        """As many for each engine as the smallest engine count has."""
        return self.requests * engines // self.base_engines


@dataclass(frozen=True, slots=True, kw_only=True)
class Volumes(Part):
    """How much was done."""

    warm_up_requests: int
    accepted: int
    rejected: dict[str, int]
    failed: dict[str, int]
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates(Part):
    """How fast it went in one window."""

    seconds: float
    output_tokens_per_s: float
    output_tokens_per_s_per_device: float | None
    prefill_tokens_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread(Part):
    """A distribution in seconds."""

    num: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(Part):
    """Seconds of single requests."""

    queue_s: Spread | None
    ttft_s: Spread | None
    tpot_s: Spread | None
    e2e_s: Spread | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level(Part):
    """Something that goes up and down."""

    mean: float
    peak: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache(Part):
    """The KV cache."""

    prefix_hit_rate: float | None
    kv_use: Level | None
    preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares(Part):
    """How engines spent a phase, as shares that add up to 1.

    ``busy``: a request was under way. ``bubble``: the engine was ready and had none, before the first engine ran dry.
    ``tail``: the same after that. ``down``: it was not there.
    """

    busy: float
    bubble: float
    tail: float
    down: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Count(Part):
    """The pool's tokens against the engines' own counters, over the whole phase.

    ``again``: of requests that were handed over more than once. ``difference``: relative to the pool's count, above 0
    where engines computed more than was answered, but for what ``again`` explains.
    """

    pool: int
    engine: int
    again: int
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters(Part):
    """Both kinds of tokens."""

    output: Count
    prompt: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity(Part):
    """Whether the figures can be trusted."""

    real_engine: bool
    warmed_up: bool
    long_enough: bool
    errors_rare: bool
    no_restarts: bool
    counters_agree: bool
    error_rate: float
    restarts: int

    @property
    def false(self) -> list[str]:
        """The names of the flags that are false; a cell with none is valid."""
        return [name for name in self.__dataclass_fields__ if getattr(self, name) is False]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellProfile(Part):
    """One measurement."""

    engines: int
    max_num_seqs: int
    prompts: str
    requests: int
    repeat: int
    work: str
    start_s: float
    limits: dict[str, int] | None
    volumes: Volumes
    steady: Rates | None
    whole: Rates
    tail_s: float
    running: Level | None
    latency: Latency
    cache: Cache | None
    shares: Shares
    mfu: float | None
    accept_rate: float
    accepted_per_s: float
    device_s_per_accepted: float | None
    counters: Counters
    validity: Validity

    @property
    def key(self) -> Key:
        """What it has in common with its repeats."""
        return self.engines, self.max_num_seqs, self.prompts, self.requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling(Part):
    """An engine count against the smallest one, medians over the repeats."""

    engines: int
    base_engines: int
    max_num_seqs: int
    prompts: str
    strong_speedup: float | None
    strong_efficiency: float | None
    weak_efficiency: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Part):
    """The whole file."""

    schema: int = SCHEMA
    complete: bool
    identity: Identity
    settings: Sweep
    cells: tuple[CellProfile, ...]
    scaling: tuple[Scaling, ...] | None
    notes: tuple[str, ...]


_PROFILE = TypeAdapter(Profile)
_HINT = "Give the profile.json that `s3ray bench` wrote, or its folder."


def to_plain(profile: Profile) -> dict[str, Any]:
    """A profile as it is written."""
    plain: dict[str, Any] = _PROFILE.dump_python(profile, mode="json")
    return plain


def from_plain(plain: Any) -> Profile:
    """A profile from what lies on disk.

    Raises:
        pydantic.ValidationError: it is none.
    """
    return _PROFILE.validate_json(json.dumps(plain))


def write_profile(store: RunStore, profile: Profile) -> None:
    """Write profile.json, whole or not at all, without secrets.

    Raises:
        pydantic.ValidationError: it could not be read again, for a figure is not finite.
    """
    plain = mask(to_plain(profile))
    from_plain(plain)
    store.write_json(PROFILE, plain)


def read_profile(place: str) -> Profile:
    """Read a profile from its file, or from the folder that holds it.

    Raises:
        InputError: there is none, or it is not what this version writes.
    """
    folder, name = split(place if place.endswith(".json") else join(place, PROFILE))
    try:
        raw = RunStore(folder).read_json(name)
    except (StoreError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {str(error).splitlines()[0]}", where=place, hint=_HINT) from error
    if not isinstance(raw, dict) or not {"schema", "identity", "cells"} <= raw.keys():
        raise InputError("is not a profile", where=place, hint=_HINT)
    if raw["schema"] != SCHEMA:
        hint = "Measure again, or compare with the version of s3ray that wrote it."
        problem = f"has another schema than {SCHEMA}, which this version reads"
        raise InputError(problem, where=place, field="schema", value=str(raw["schema"]), hint=hint)
    try:
        return from_plain(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"is not a profile: {first['msg']}", where=place, field=field, hint=_HINT) from None
