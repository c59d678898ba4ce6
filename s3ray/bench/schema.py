"""profile.json, schema 1: what each field is. docs/bench.md explains them, and a test holds the two together.

Invariant of a ``Profile``: a value that could not be had is null, and ``reasons`` says why, by the path of the value
(``cells.0.steady``); what is not null has no reason. So nobody has to guess whether a hole is a zero.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands, in a tree of plain values, where a value could not be had."""

    reason: str


class Part(BaseModel):
    """A part of a profile: strict, finite, and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Versions(Part):
    """What was installed where the command ran."""

    s3ray: str
    python: str
    ray: str
    torch: str | None
    vllm: str | None


class Machine(Part):
    """The cluster, and the device of one engine."""

    summary: str
    nodes: int
    cpus: int
    gpus: int
    device: str
    device_name: str | None
    devices_per_engine: float | None


class Model(Part):
    """The language model."""

    name: str | None
    dtype: str | None
    parameters: int | None


class Identity(Part):
    """What was measured, where, and with which code."""

    job: str
    task: str
    strategy: str
    fingerprint: str
    engine: str
    model: Model
    prompt_form: str
    sampling: dict[str, float | int]
    tensor_parallel: int
    pipeline_parallel: int
    machine: Machine
    versions: Versions
    commit: str
    command: str
    created: str


class Settings(Part):
    """How it was measured."""

    engines: list[int]
    max_num_seqs: list[int]
    prompts: list[str]
    requests: int
    repeats: int
    min_seconds: float
    max_error_rate: float
    tolerance: float


class Limits(Part):
    """What the engines resolved, all the same."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    num_kv_tokens: int


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
    prefill_tokens_per_s_per_device: float | None


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
    preemptions: int | None


class Shares(Part):
    """Where the seconds of all engines went; they add up to 1."""

    busy: float
    bubble: float
    tail: float
    down: float


class Yield(Part):
    """What comes out: examples that a run would have kept."""

    accept_rate: float
    accepted_per_s: float
    device_s_per_accepted: float | None


class Counters(Part):
    """The pool's tokens against the engines' own counters, over the whole phase."""

    pool_output_tokens: int
    engine_output_tokens: int
    again_output_tokens: int
    output_difference: float
    pool_prompt_tokens: int
    engine_prompt_tokens: int
    again_prompt_tokens: int
    prompt_difference: float


class Validity(Part):
    """Whether the figures mean what they say."""

    real_engine: bool
    warmed_up: bool
    long_enough: bool
    errors_rare: bool
    no_restarts: bool
    counters_agree: bool
    error_rate: float
    restarts: int

    @property
    def flags(self) -> dict[str, bool]:
        """The flags alone."""
        return {name: value for name, value in self.model_dump().items() if isinstance(value, bool)}

    @property
    def false(self) -> list[str]:
        """The names of those that are false; a cell with none is valid."""
        return [name for name, value in self.flags.items() if not value]


class CellProfile(Part):
    """One measurement."""

    engines: int
    max_num_seqs: int
    prompts: str
    requests: int
    repeat: int
    work: str
    start_s: float
    limits: Limits | None
    volumes: Volumes
    steady: Rates | None
    whole: Rates
    tail_s: float
    running: Level | None
    latency: Latency
    cache: Cache
    shares: Shares
    mfu: float | None
    yields: Yield = Field(alias="yield")
    counters: Counters
    validity: Validity


class Scaling(Part):
    """An engine count against the smallest one, medians over the repeats."""

    engines: int
    base_engines: int
    max_num_seqs: int
    prompts: str
    strong_speedup: float | None
    strong_efficiency: float | None
    weak_efficiency: float | None


class Profile(Part):
    """The whole file."""

    schema_: Literal[1] = Field(alias="schema")
    complete: bool
    identity: Identity
    settings: Settings
    cells: list[CellProfile]
    scaling: list[Scaling] | None
    reasons: dict[str, str]

    @model_validator(mode="after")
    def _no_null_without_reason(self) -> "Profile":
        plain = self.plain()
        holes = set(_holes({name: value for name, value in plain.items() if name != "reasons"}))
        if unexplained := sorted(holes - set(self.reasons)):
            raise ValueError(f"null without a reason: {', '.join(unexplained[:5])}")
        if surplus := sorted(set(self.reasons) - holes):
            raise ValueError(f"a reason for what is not null: {', '.join(surplus[:5])}")
        if empty := sorted(path for path, reason in self.reasons.items() if not reason):
            raise ValueError(f"an empty reason: {', '.join(empty[:5])}")
        return self

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        return self.model_dump(mode="json", by_alias=True)


def make_profile(tree: Mapping[str, Any]) -> Profile:
    """A profile from a tree of plain values in which ``Missing`` stands for what could not be had.

    Raises:
        pydantic.ValidationError: it is none.
    """
    reasons: dict[str, str] = {}
    settled = _settle({"schema": SCHEMA, **tree}, "", reasons)
    return Profile.model_validate(settled | {"reasons": reasons})


def field_paths(part: type[BaseModel] = Profile, prefix: str = "") -> Iterator[str]:
    """Every field of the schema as a dotted path, without the numbers of list entries."""
    for name, info in part.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        inner = _part_in(info.annotation)
        if inner is None:
            yield path
        else:
            yield from field_paths(inner, f"{path}.")


def _part_in(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((found for inner in getattr(annotation, "__args__", ()) if (found := _part_in(inner))), None)


def _settle(value: Any, path: str, reasons: dict[str, str]) -> Any:
    match value:
        case Missing(reason):
            reasons[path] = reason
            return None
        case Mapping():
            return {name: _settle(part, _below(path, name), reasons) for name, part in value.items()}
        case list() | tuple():
            return [_settle(part, _below(path, place), reasons) for place, part in enumerate(value)]
    return value


def _holes(value: Any, path: str = "") -> Iterator[str]:
    match value:
        case None:
            yield path
        case Mapping():
            for name, part in value.items():
                yield from _holes(part, _below(path, name))
        case list():
            for place, part in enumerate(value):
                yield from _holes(part, _below(path, place))


def _below(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)
