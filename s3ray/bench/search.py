"""Which settings `s3ray bench --tune` tries next, from what is known so far. Pure: it measures nothing.

The search goes along one axis at a time (coordinate descent), axes in the order of what they cost to try. On each it
starts from the best settings so far and goes on while a step gains more than ``GAIN``. It ends when all axes in a row
have gained nothing since the last gain.

``search`` is a generator: it yields a candidate and is sent the finding, measured now or read from a file. So a search
that was interrupted takes the same way again without measuring twice.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

from pydantic import JsonValue

from s3ray.config.job import GeneratorConfig, RunConfig

GAIN = 1.05
"""How many times as fast a setting must be to count: less is within what repeats differ by."""
CLEARLY_SLOWER = 0.9
"""A setting that was slower than this part of the best is not tried again on top of other ones."""
FULL = 0.9
"""Part of the KV cache in use from which more memory for it may help."""
WAVES = 1.5
"""A batch must be filled so often by the requests of a measurement, or its speed would be that of filling it."""

Changes = Mapping[str, JsonValue]
"""Settings that differ from the job's, by dotted field; a field of ``engine_args`` is below it."""
_ARGS = "generator.engine_args."


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Settings to measure. ``setting`` names what is new in it, ``changes`` are all that differ from the job.

    ``on_top`` are the settings that gained before, ``best`` is how many times as fast as the job's own they are.
    ``lossy``: it changes what is written. ``problem``: why it is not measured; empty if it is to be.
    """

    axis: str
    setting: str
    changes: Changes
    on_top: tuple[str, ...] = ()
    best: float = 1.0
    lossy: bool = False
    problem: str = ""

    @property
    def key(self) -> str:
        """Equal for equal changes."""
        return json.dumps(dict(self.changes), sort_keys=True)


OWN = Candidate(axis="job", setting="the job's own", changes={})
"""What every search begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What measuring told. ``ratio``: times as fast as the job's own settings; None where it could not be measured.

    ``max_num_seqs`` and ``max_num_batched_tokens`` are what the engines resolved. ``kv_peak`` is the largest part of
    the KV cache in use, None where the engine does not tell it.
    """

    ratio: float | None
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    kv_peak: float | None = None
    num_preemptions: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known before anything is measured.

    ``device`` is what engines compute on (gpu or cpu), ``requests`` the number of each measurement. ``fits`` says why
    settings cannot be placed on the cluster, empty if they can. ``has_suffix``: suffix decoding (the package
    arctic-inference) is installed. ``lossy``: settings that change what is written may be tried.
    """

    config: RunConfig
    device: str
    requests: int
    fits: Callable[[Changes], str]
    has_suffix: bool = False
    lossy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The fastest settings, and how many times as fast they are as the job's."""

    changes: Changes
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    setting: str
    changes: Changes
    problem: str = ""
    lossy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _At:
    """The best settings so far, as the axes see them; ``gained`` names what gained on each axis."""

    facts: Facts
    changes: Changes
    finding: Finding
    gained: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """How many times as fast as the job's own settings."""
        return self.finding.ratio or 1.0

    def value(self, name: str) -> JsonValue:
        """A field of ``generator`` with these settings."""
        field_name = f"generator.{name}"
        return self.changes.get(field_name, _own(self.facts.config.generator, field_name))

    def number(self, name: str) -> int:
        """A whole number of ``generator``."""
        value = self.value(name)
        assert isinstance(value, int), f"{name} is {value!r}"
        return value

    @property
    def is_kv_full(self) -> bool:
        """Whether the KV cache keeps sequences waiting."""
        finding = self.finding
        return finding.num_preemptions > 0 or (finding.kv_peak is not None and finding.kv_peak >= FULL)


_Runs = Iterator[list[_Option]]
"""Lists of options. Along a list each is tried while the one before it gained; a list that gained ends the axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    name: str
    runs: Callable[[_At], _Runs]
    all_runs: bool = False


Search = Generator[Candidate, Finding, Best]


def search(facts: Facts) -> Search:
    """Yield candidates, the job's own settings first; returns the best.

    A candidate with a ``problem`` is told for the table alone; the finding that is sent for it is not read.
    """
    known: dict[str, Finding] = {}
    lost: set[str] = set()
    at = _At(facts=facts, changes={}, finding=(yield OWN))
    known[OWN.key] = at.finding
    axes = _axes(facts)
    place, idle = 0, 0
    while idle < len(axes):
        axis = axes[place % len(axes)]
        before = at.changes
        at = yield from _along(axis, at, known, lost)
        idle = idle + 1 if at.changes == before else 1
        place += 1
    return Best(changes=at.changes, ratio=at.ratio)


def _along(axis: _Axis, at: _At, known: dict[str, Finding], lost: set[str]) -> Generator[Candidate, Finding, _At]:
    """Try the options of one axis on top of the best settings; returns the best after it."""
    for run in axis.runs(at):
        gained = False
        for option in run:
            found = yield from _try(axis, option, at, known, lost)
            if found is None or _gain(found, at) <= GAIN:
                break
            at = replace(
                at, changes=_merged(at, option), finding=found, gained={**at.gained, axis.name: option.setting}
            )
            gained = True
        if gained and not axis.all_runs:
            break
    return at


def _try(
    axis: _Axis, option: _Option, at: _At, known: dict[str, Finding], lost: set[str]
) -> Generator[Candidate, Finding, Finding | None]:
    """Have one option measured, unless that is known or of no use; None where there is no speed of it."""
    changes = _merged(at, option)
    candidate = Candidate(
        axis=axis.name,
        setting=option.setting,
        changes=changes,
        on_top=tuple(at.gained.values()),
        best=at.ratio,
        lossy=option.lossy,
    )
    if candidate.key in known:
        return known[candidate.key]
    if option.setting in lost:
        return None
    problem = option.problem or at.facts.fits(changes)
    if problem:
        lost.add(option.setting)
        yield replace(candidate, problem=problem)
        return None
    found = yield candidate
    known[candidate.key] = found
    if found.ratio is None or _gain(found, at) < CLEARLY_SLOWER:
        lost.add(option.setting)
    return found if found.ratio is not None else None


def _gain(found: Finding, at: _At) -> float:
    """How many times as fast as the best so far."""
    return (found.ratio or 0.0) / at.ratio


def _merged(at: _At, option: _Option) -> Changes:
    """The changes with an option on top; what is the job's own again is no change."""
    changes = {**at.changes, **option.changes}
    return {name: value for name, value in changes.items() if value != _own(at.facts.config.generator, name)}


def _own(generator: GeneratorConfig, name: str) -> JsonValue:
    """The job's value of a field."""
    if name.startswith(_ARGS):
        return generator.engine_args.get(name.removeprefix(_ARGS))
    value: JsonValue = getattr(generator, name.removeprefix("generator."))
    return value


# -- the axes, in the order of what they cost ----------------------------------------------------------------------


def _axes(facts: Facts) -> list[_Axis]:
    sequences = _Axis(name="sequences at once", runs=_sequences)
    if facts.config.generator.engine != "vllm":
        return [sequences]
    tokens = _Axis(name="tokens in a step", runs=_tokens)
    memory = _Axis(name="KV memory", runs=_memory)
    speculation = _Axis(name="speculation", runs=_speculation, all_runs=True)
    lossy = _Axis(name="number formats", runs=_formats, all_runs=True)
    if facts.device == "gpu":
        # An engine of another shape compiles anew.
        shapes = _Axis(name="parallel shape", runs=_gpu_shapes)
        return [sequences, tokens, memory, speculation, shapes, lossy]
    shapes = _Axis(name="engines on the cores", runs=_core_shapes)
    compiled = _Axis(name="compilation", runs=_compilation)
    return [shapes, sequences, tokens, memory, speculation, compiled, lossy]


def _sequences(at: _At) -> _Runs:
    """Twice as many at once, and again; half as many where the KV cache does not hold so many."""
    now = at.finding.max_num_seqs
    yield [_sequence(at, now * 2), _sequence(at, now * 4), _sequence(at, now * 8)]
    if at.is_kv_full and now > 4:
        yield [_sequence(at, now // 2), _sequence(at, now // 4)]


def _sequence(at: _At, num: int) -> _Option:
    requests, engines = at.facts.requests, at.number("engines")
    problem = ""
    if at.facts.config.generator.engine == "vllm" and num > at.finding.max_num_batched_tokens:
        problem = f"a step holds {at.finding.max_num_batched_tokens} tokens (max_num_batched_tokens)"
    elif num * engines * WAVES > requests:
        problem = f"{requests} requests fill {engines} x {num} sequences less than {WAVES:g} times (--requests)"
    elif num > at.finding.max_num_seqs and at.is_kv_full:
        problem = "the KV cache is full with fewer"
    return _Option(setting=f"max_num_seqs {num}", changes={"generator.max_num_seqs": num}, problem=problem)


def _tokens(at: _At) -> _Runs:
    """Twice as many tokens in a step, and again."""
    now = at.finding.max_num_batched_tokens
    yield [
        _Option(
            setting=f"max_num_batched_tokens {num}",
            changes={"generator.max_num_batched_tokens": num},
        )
        for num in (now * 2, now * 4)
    ]


def _memory(at: _At) -> _Runs:
    """More memory for the KV cache, where it is what sequences wait for."""
    peak = at.finding.kv_peak
    share = "" if peak is None else f" ({peak:.0%} at most)"
    problem = "" if at.is_kv_full else f"the KV cache is never full{share}"
    if at.facts.device == "gpu":
        name, value = "gpu_memory_utilization", 0.95
        if at.facts.config.generator.gpu_memory_utilization >= value:
            return
        yield [_Option(setting=f"{name} {value}", changes={f"generator.{name}": value}, problem=problem)]
        return
    gib = at.number("kv_cache_gib")
    yield [
        _Option(setting=f"kv_cache_gib {num}", changes={"generator.kv_cache_gib": num}, problem=problem)
        for num in (gib * 2, gib * 4)[: 2 if at.is_kv_full else 1]
    ]


def _speculation(at: _At) -> _Runs:
    """Guess the next tokens, and check the guess in one step: what is written keeps its distribution."""
    if at.facts.config.generator.engine_args.get("speculative_config"):
        yield [_Option(setting="no speculation", changes={f"{_ARGS}speculative_config": None})]
    yield [
        _Option(
            setting=f"n-gram speculation, {num} ahead",
            changes={
                f"{_ARGS}speculative_config": {
                    "method": "ngram",
                    "num_speculative_tokens": num,
                    "prompt_lookup_max": 4,
                }
            },
        )
        for num in (3, 5)
    ]
    problem = "" if at.facts.has_suffix else "arctic-inference is not installed"
    yield [
        _Option(
            setting="suffix speculation",
            changes={f"{_ARGS}speculative_config": {"method": "suffix"}},
            problem=problem,
        )
    ]


def _compilation(at: _At) -> _Runs:
    """On a CPU engines run each operation by itself; compiled ones take longer to start."""
    if at.facts.config.generator.engine_args.get("enforce_eager") is None:
        yield [_Option(setting="compiled", changes={f"{_ARGS}enforce_eager": False})]


def _core_shapes(at: _At) -> _Runs:
    """Fewer engines with more cores each, or more with fewer, and as many sequences in all."""
    engines, sequences = at.number("engines"), at.finding.max_num_seqs
    if engines % 2 == 0:
        yield [_shape(at, engines=engines // 2, max_num_seqs=sequences * 2)]
    yield [_shape(at, engines=engines * 2, max_num_seqs=max(1, sequences // 2))]


def _gpu_shapes(at: _At) -> _Runs:
    """The same GPUs in other groups: more engines of fewer GPUs, fewer of more, two on each, stages for parts."""
    engines, tensor, stages = (at.number(name) for name in ("engines", "tensor_parallel", "pipeline_parallel"))
    if tensor % 2 == 0:
        yield [_shape(at, engines=engines * 2, tensor_parallel=tensor // 2)]
        yield [_shape(at, tensor_parallel=tensor // 2, pipeline_parallel=stages * 2)]
    if engines % 2 == 0:
        yield [_shape(at, engines=engines // 2, tensor_parallel=tensor * 2)]
    if tensor == stages == 1 and at.value("gpu_share") == 1.0:
        yield [_shape(at, engines=engines * 2, gpu_share=0.5)]


def _shape(at: _At, **values: int | float) -> _Option:
    words = ", ".join(f"{name} {value:g}" for name, value in values.items())
    changes: dict[str, JsonValue] = {f"generator.{name}": value for name, value in values.items()}
    if "engines" in values:
        changes["generator.min_engines"] = None
    return _Option(setting=words, changes=changes)


def _formats(at: _At) -> _Runs:
    """Number formats with fewer bits, which change what is written."""
    untried = "" if at.facts.lossy else "it changes what is written; --lossy tries it"

    def option(setting: str, changes: Changes) -> list[_Option]:
        return [_Option(setting=setting, changes=changes, problem=untried, lossy=True)]

    yield option("KV cache in fp8", {f"{_ARGS}kv_cache_dtype": "fp8"})
    if at.facts.device == "gpu":
        yield option("weights in fp8", {f"{_ARGS}quantization": "fp8"})
