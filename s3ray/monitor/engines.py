"""What each engine of the pool did in a run, and how it was when last heard of: folded from events by ``RunView``.

Invariant: pure. An engine counts from zero after each start, so its counts are kept by start and what it did is their
sum; only the rows and output tokens of a chunk are added up, and the caller hands each chunk over once.
"""

from collections.abc import Set
from dataclasses import dataclass, field

from s3ray.monitor.events import ChunkWritten, EngineEvent, EngineStarting, Event
from s3ray.types import EngineReport

MAX_ENGINES_NAMED = 8
"""Up to so many engines have a row each where people look; of more, only the pool's totals are shown."""

# An engine process: the attempt of the run, how often the engine had been stopped on purpose, and its restarts by then.
_Process = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Sequences computed and waiting, and the share of the KV cache in use (0 to 1; of many engines, the fullest's)."""

    running: int = 0
    waiting: int = 0
    kv_use: float = 0.0

    def peak(self, other: "Load") -> "Load":
        """The larger of each."""
        return Load(
            running=max(self.running, other.running),
            waiting=max(self.waiting, other.waiting),
            kv_use=max(self.kv_use, other.kv_use),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an engine did over all its starts, or all engines together.

    Tokens count what was computed, so also answers that another engine gave first and work that a death undid.
    ``busy_s`` are the seconds with a request under way, ``open_s`` those in which an engine was ready and the run
    generating: an engine that rests while a student is trained is not to blame.
    """

    rows: int
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int
    preemptions: int
    restarts: int
    busy_s: float
    open_s: float
    peak: Load

    @property
    def prefix_hit_rate(self) -> float | None:
        """The share of prompt tokens that came from the prefix cache; None before there was a prompt."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def busy_share(self) -> float | None:
        """The share of its open time in which it was busy (0 to 1); None before there was any."""
        return min(1.0, self.busy_s / self.open_s) if self.open_s else None


@dataclass(slots=True, kw_only=True)
class _Life:
    """What one process of an engine told last; ``open_from`` is the run's generating time when it was ready."""

    open_from: float
    prompt_tokens: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    busy_s: float = 0.0
    open_s: float = 0.0


@dataclass(slots=True)
class EngineView:
    """One engine. ``has_reported`` is False until a chunk carries its state."""

    load: Load = Load()
    has_reported: bool = False
    _rows: int = 0
    _output_tokens: int = 0
    _peak: Load = Load()
    _num_stops: int = 0
    _restarts: dict[int, int] = field(default_factory=dict)
    _lives: dict[_Process, _Life] = field(default_factory=dict)

    @property
    def usage(self) -> Usage:
        """What it did so far."""
        lives = self._lives.values()
        return Usage(
            rows=self._rows,
            output_tokens=self._output_tokens,
            prompt_tokens=sum(life.prompt_tokens for life in lives),
            cached_tokens=sum(life.cached_tokens for life in lives),
            preemptions=sum(life.preemptions for life in lives),
            restarts=sum(self._restarts.values()),
            busy_s=sum(life.busy_s for life in lives),
            open_s=sum(life.open_s for life in lives),
            peak=self._peak,
        )

    def note_state(self, state: str, event: EngineEvent, generate_s: float) -> None:
        """It came to ``state``: what it had in work is gone unless it is ready."""
        if isinstance(event, EngineStarting):
            self._restarts[event.attempt] = event.restarts
        if state == "ready":
            self._life(event, self._restarts.get(event.attempt, 0), generate_s)
        else:
            self.load = Load()
        self._num_stops += state == "stopped"

    def note_report(self, event: Event, report: EngineReport, generate_s: float, *, is_ready: bool) -> None:
        """Take in its part of a chunk. What a process told before it died still counts, but says nothing of now."""
        self.has_reported = True
        self._rows += report.rows
        self._output_tokens += report.output_tokens
        life = self._life(event, report.restarts, generate_s)
        life.prompt_tokens = report.prompt_tokens
        life.cached_tokens = report.cached_tokens
        life.preemptions = report.preemptions
        life.busy_s = report.busy_s
        load = Load(running=report.running, waiting=report.waiting, kv_use=report.kv_use)
        self._peak = self._peak.peak(load)
        if is_ready and report.restarts == self._restarts.get(event.attempt, 0):
            self.load = load
            life.open_s = generate_s - life.open_from

    def _life(self, event: Event, restarts: int, generate_s: float) -> _Life:
        process = (event.attempt, self._num_stops, restarts)
        return self._lives.setdefault(process, _Life(open_from=generate_s))


@dataclass(slots=True)
class PoolView:
    """The engines of all attempts, by name."""

    engines: dict[str, EngineView] = field(default_factory=dict)
    _peak: Load = Load()

    @property
    def by_name(self) -> dict[str, EngineView]:
        """The engines in the order of their numbers."""
        return {name: self.engines[name] for name in sorted(self.engines, key=lambda name: (len(name), name))}

    @property
    def has_reported(self) -> bool:
        """Whether any engine told of itself."""
        return any(engine.has_reported for engine in self.engines.values())

    @property
    def load(self) -> Load:
        """What all engines together have in work."""
        loads = [engine.load for engine in self.engines.values()]
        return Load(
            running=sum(load.running for load in loads),
            waiting=sum(load.waiting for load in loads),
            kv_use=max((load.kv_use for load in loads), default=0.0),
        )

    @property
    def usage(self) -> Usage:
        """What all engines together did so far. The peak is that of the pool at one moment, not the sum of peaks."""
        each = [engine.usage for engine in self.engines.values()]
        return Usage(
            rows=sum(usage.rows for usage in each),
            output_tokens=sum(usage.output_tokens for usage in each),
            prompt_tokens=sum(usage.prompt_tokens for usage in each),
            cached_tokens=sum(usage.cached_tokens for usage in each),
            preemptions=sum(usage.preemptions for usage in each),
            restarts=sum(usage.restarts for usage in each),
            busy_s=sum(usage.busy_s for usage in each),
            open_s=sum(usage.open_s for usage in each),
            peak=self._peak,
        )

    def engine(self, name: str) -> EngineView:
        """What is known of an engine; of a new one, nothing."""
        return self.engines.setdefault(name, EngineView())

    def begin_attempt(self) -> None:
        """The processes of the attempt before are gone."""
        for engine in self.engines.values():
            engine.load = Load()

    def note_chunk(self, event: ChunkWritten, ready: Set[str], generate_s: float) -> None:
        """Take in what a chunk says of its engines.

        ``ready`` names those that can work; ``generate_s`` is how long the run has been generating.
        """
        for name, report in event.engines.items():
            self.engine(name).note_report(event, report, generate_s, is_ready=name in ready)
        self._peak = self._peak.peak(self.load)
