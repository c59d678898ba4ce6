"""profile.json, schema 2: its fields, how it is written and how it is read. docs/bench.md explains every field.

A value that is not available is null, and ``Profile.notes`` has the reason, by the path of the value:
``cells.0.mfu: the device is no GPU, and its peak is not known``.
"""

import json
from collections.abc import Callable
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from s3ray.config.job import AUTO_NUM_SEQS, RunConfig
from s3ray.errors import InputError, StoreError
from s3ray.redaction import mask
from s3ray.storage.local import join, split
from s3ray.storage.run_folder import RunStore

SCHEMA = 2
PROFILE = "profile.json"

BatchLimit = int | Literal["auto"]
"""Sequences that an engine decodes at once; auto: as many as it finds right for its card (the limits say how many)."""
Key = tuple[int, BatchLimit, str, int]
"""Engines, sequences, prompts and requests: cells of two profiles, or of two repeats, that agree in it are compared."""

T = TypeVar("T")


def num_seqs(limit: BatchLimit) -> int:
    """A batch limit as a number; for auto that of engines without a GPU, an estimate before one has been seen."""
    return AUTO_NUM_SEQS if limit == "auto" else limit


class UnknownError(Exception):
    """A figure is not available; the text is the reason."""


def known(notes: list[str], path: str, figure: Callable[[], T]) -> T | None:
    """The figure that a call returns; where it raises ``UnknownError``, None, and the reason becomes a note."""
    try:
        return figure()
    except UnknownError as error:
        notes.append(f"{path}: {error}")
        return None


class Part(BaseModel):
    """A part of a profile; unknown fields and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, serialize_by_alias=True)


class Identity(Part):
    """What was measured, where, and with which code; ``device`` is that of one engine."""

    job: str
    task: str
    strategy: str
    fingerprint: str
    engine: str
    model: str | None
    adapter: str = ""
    dtype: str | None
    parameters: int | None
    prompt_form: str
    sampling: dict[str, float | int]
    engine_args: dict[str, JsonValue] = {}
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


class Sweep(Part):
    """How it was measured: all engine counts with all limits and all sets of prompts, ``repeats`` times.

    Every cell has ``requests`` requests (strong scaling). Where several engine counts are swept, each larger one is
    also measured with as many requests for each engine as the smallest one has (weak scaling). Cells whose steady
    window is shorter than ``min_seconds`` are flagged.
    """

    engines: tuple[int, ...]
    max_num_seqs: tuple[BatchLimit, ...]
    prompts: tuple[str, ...]
    requests: int
    repeats: int
    min_seconds: float

    @property
    def base_engines(self) -> int:
        """The smallest engine count, to which the others are compared."""
        return min(self.engines)

    def weak_requests(self, engines: int) -> int:
        """Requests of weak scaling: as many for each engine as the smallest engine count has."""
        return self.requests * engines // self.base_engines


class Cell(Part):
    """One measurement. ``requests`` are measured; before them, as many as the engines decode at once warm them up."""

    engines: int
    max_num_seqs: BatchLimit
    prompts: str
    requests: int
    repeat: int

    @property
    def key(self) -> Key:
        """What a cell has in common with its repeats."""
        return self.engines, self.max_num_seqs, self.prompts, self.requests

    @property
    def num_warm_up(self) -> int:
        """Requests that are answered before the clock starts."""
        return self.engines * num_seqs(self.max_num_seqs)

    def config(self, config: RunConfig) -> RunConfig:
        """The job with this cell's engines and limit; all engines must fit."""
        changes = {"engines": self.engines, "min_engines": None, "max_num_seqs": self.max_num_seqs}
        return config.model_copy(update={"generator": config.generator.model_copy(update=changes)})


class Volumes(Part):
    """How much was done."""

    warm_up_requests: int
    accepted: int
    rejected: dict[str, int]
    failed: dict[str, int]
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Rates(Part):
    """How fast it went in one window."""

    seconds: float
    output_tokens_per_s: float
    output_tokens_per_s_per_device: float | None
    prefill_tokens_per_s: float


class Spread(Part):
    """A distribution in seconds."""

    num: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Latency(Part):
    """Seconds of single requests."""

    queue_s: Spread | None
    ttft_s: Spread | None
    tpot_s: Spread | None
    e2e_s: Spread | None


class Level(Part):
    """Something that goes up and down."""

    mean: float
    peak: float


class Cache(Part):
    """The KV cache."""

    prefix_hit_rate: float | None
    kv_use: Level | None
    preemptions: int


class Shares(Part):
    """How engines spent a phase, as shares that add up to 1.

    ``busy``: a request was under way. ``bubble``: the engine was ready and had none, before the first engine ran dry.
    ``tail``: the same after that. ``down``: the engine was lost and not back yet.
    """

    busy: float
    bubble: float
    tail: float
    down: float


class Count(Part):
    """The pool's tokens against the engines' own counters, over the whole phase.

    ``again``: tokens of requests that were handed over more than once. ``difference``: relative to the pool's count,
    above 0 where engines computed more than was answered and ``again`` does not explain it.
    """

    pool: int
    engine: int
    again: int
    difference: float


class Counters(Part):
    """Both kinds of tokens."""

    output: Count
    prompt: Count


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
        return [name for name in type(self).model_fields if getattr(self, name) is False]


class CellProfile(Cell):
    """What was measured in one cell."""

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


class Scaling(Part):
    """An engine count against the smallest one, medians over the repeats."""

    engines: int
    base_engines: int
    max_num_seqs: BatchLimit
    prompts: str
    strong_speedup: float | None
    strong_efficiency: float | None
    weak_efficiency: float | None


class Profile(Part):
    """The whole file."""

    version: int = Field(default=SCHEMA, alias="schema")
    complete: bool
    identity: Identity
    settings: Sweep
    cells: tuple[CellProfile, ...]
    scaling: tuple[Scaling, ...] | None
    notes: tuple[str, ...]


_HINT = "Give the profile.json that `s3ray bench` wrote, or its folder."


def write_profile(store: RunStore, profile: Profile) -> None:
    """Write profile.json, whole or not at all, without secrets."""
    store.write_json(PROFILE, mask(profile.model_dump(mode="json")))


def read_profile(place: str) -> Profile:
    """Read a profile from its file, or from the folder that holds it.

    Raises:
        InputError: there is none, or it is not what this version writes.
    """
    folder, name = split(place if place.endswith(".json") else join(place, PROFILE))
    try:
        raw = RunStore(folder).read_json(name)
    except StoreError as error:
        raise InputError(f"cannot be read: {str(error).splitlines()[0]}", where=place, hint=_HINT) from error
    if not isinstance(raw, dict) or not {"schema", "identity", "cells"} <= raw.keys():
        raise InputError("is not a profile", where=place, hint=_HINT)
    if raw["schema"] != SCHEMA:
        hint = "Measure again, or compare with the version of s3ray that wrote it."
        problem = f"has another schema than {SCHEMA}, which this version reads"
        raise InputError(problem, where=place, field="schema", value=str(raw["schema"]), hint=hint)
    try:
        return Profile.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"is not a profile: {first['msg']}", where=place, field=field, hint=_HINT) from None
