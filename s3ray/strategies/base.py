"""The contract of a strategy: what it can see in a round, and the stages of requests that it plans."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import xxhash

from s3ray.config.job import StrategyConfig
from s3ray.strategies.mistake_stream import MistakeStream
from s3ray.strategies.probes import Probes
from s3ray.tasks import Task
from s3ray.tasks.gold import Context
from s3ray.types import Example, GenerationRequest

ANY = ""
"""Key of the quota that counts every label."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """The requests of one stage.

    ``requests`` is lazy. ``quota`` is the number of accepted outcomes wanted per label (or of all labels together,
    under the key ``ANY``); it ends the stage, so ``requests`` may then be endless. Without a quota every request is
    sent. ``max_requests`` bounds the stage. ``NOT_YET`` in place of a request means that it is asked for again later.
    """

    name: str
    requests: Iterator[GenerationRequest]
    quota: Mapping[str, int] | None = None
    max_requests: int | None = None

    @property
    def target(self) -> int | None:
        """Accepted outcomes wanted in all."""
        return None if self.quota is None else sum(self.quota.values())


Notes = Mapping[str, Sequence[str]]
"""The notes that a note stage kept, by key: a label, the number of a cluster, or ``ANY``."""


def _no_probes(name: str) -> Probes:
    raise LookupError(f"no student saw the table {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """What a strategy can see in one round.

    ``gold`` is the extrapolation part; a strategy never sees the other parts. Where the generator writes only one of
    several fields, ``contexts`` are the others, for which seed examples are written. ``prompts`` names the notes that
    the task has prompts for, ``notes`` are those of this round so far, by stage. ``fingerprint`` and ``seed`` make
    request ids and random draws repeatable.

    ``mistakes`` are those of the last student on gold. ``probes("gold")`` and ``probes("train")`` are its answers on
    gold and on its training set (``Strategy.probes``); they wait until it is finished. ``synthetic()`` returns the
    synthetic rows that it was trained on, ``history()`` the ids of the gold rows that each student before it got wrong,
    oldest first. ``earlier`` are the mistakes of the student before the last one, which are known while the last one is
    still in training; ``num_ahead`` is how many rows of this round were written from them and kept, so far.
    """

    round: int
    task: Task
    gold: Sequence[Example]
    contexts: Sequence[Context] = ()
    mistakes: MistakeStream = field(default_factory=MistakeStream)
    earlier: MistakeStream = field(default_factory=MistakeStream)
    num_ahead: int = 0
    prompts: Set[str] = frozenset()
    notes: Mapping[str, Notes] = field(default_factory=dict)
    probes: Callable[[str], Probes] = _no_probes
    synthetic: Callable[[], Sequence[Example]] = tuple
    history: Callable[[], Sequence[Set[str]]] = tuple
    fingerprint: str
    seed: int

    def generator(self, *names: object) -> random.Random:
        """A random generator that depends on the run's seed, the round and ``names`` only."""
        return random.Random(xxhash.xxh64_intdigest(repr((self.seed, self.round, *names)).encode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """What a student learns from: the synthetic rows of ``rounds`` and, with ``gold``, gold's extrapolation part."""

    gold: bool
    rounds: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteStage:
    """A stage whose texts are lists; up to ``num_each`` different items of each key are kept.

    The keys take turns: request number ``index`` is for ``keys[index % len(keys)]``.
    """

    plan: StagePlan
    keys: Sequence[str]
    num_each: int


class Strategy(ABC):
    """Plans the stages of each round. A stage is planned only after the one before it has ended."""

    def __init__(self, config: StrategyConfig) -> None:
        self.config = config

    @property
    @abstractmethod
    def seed_settings(self) -> Mapping[str, object]:
        """The settings that shape round 0 besides task, gold, generator and curation; runs with equal ones share it."""

    @property
    def last_round(self) -> int:
        """Number of the last round; round 0 is the seed set, so the paper's R (equation in section 2.5)."""
        return 0

    @property
    def probes(self) -> tuple[str, ...]:
        """The tables that each student predicts for the next round: ``gold`` (extrapolation part) or ``train``."""
        return ()

    def training(self, round_: int) -> TrainingSet:
        """What the student of a round is trained on: by default all rows written so far (Algorithm 3)."""
        return TrainingSet(gold=self.config.train_on_gold, rounds=range(round_ + 1))

    @abstractmethod
    def num_rows(self, round_: int, num_mistakes: int) -> int:
        """Number of rows that a round should add, if the student before it makes ``num_mistakes`` mistakes."""

    def num_ahead(self, round_: int, num_rows: int) -> int:
        """How many of a round's ``num_rows`` are to be written while the student before it is still in training."""
        return 0

    @property
    def reads_rows(self) -> bool:
        """Whether later rounds depend on the kept rows too, besides mistakes, probes and notes."""
        return False

    @abstractmethod
    def in_words(self) -> str:
        """How many rows are written in how many rounds, as part of a line for users."""

    def ahead_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The stages of a round that need nothing of the last student, which may still be in training."""
        return iter(())

    def note_stages(self, context: RoundContext) -> Iterator[NoteStage]:
        """The first stages of a round, in which the generator writes lists that the prompts for examples quote."""
        return iter(())

    @abstractmethod
    def example_stages(self, context: RoundContext) -> Iterator[StagePlan]:
        """The stages of a round that write examples."""
