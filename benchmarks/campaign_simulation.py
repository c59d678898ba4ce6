"""A campaign of many runs on many devices in virtual time: the product's own decisions, simulated engines and trainers.

What decides is ``s3ray.campaign.sharing`` and the order of urgency of ``s3ray.campaign.run``; what is simulated is
how long things take. Engines share a stage's work evenly and a stage ends ``TAIL_S`` after its last request was sent.
An engine takes ``ENGINE_START_S`` to load and ``TAIL_S`` to answer what it holds when it has to leave; a student's
workers take ``TRAINER_START_S`` to start. Only generating and training count as busy.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from s3ray.campaign.sharing import Demand, Devices, Remaining, Shares

ENGINE_START_S = 60
TRAINER_START_S = 20
TAIL_S = 20
SCALING = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class RunShape:
    """A run: device-seconds of generation of each round, and of training with one worker after it.

    ``num_rows`` are the rows that each round writes, ``work`` what its student learns: rows times epochs. These alone
    are known beforehand.
    """

    generate_s: Sequence[float]
    train_s: Sequence[float]
    num_rows: Sequence[float]
    work: Sequence[float]


@dataclass(slots=True, kw_only=True)
class _State:
    """Where a run is: what is left of its round's generation, and when its tail or its training ends."""

    number: int
    shape: RunShape
    round: int = 0
    left: float = 0.0
    phase: str = "generate"
    until: float = 0.0
    busy_from: float = 0.0
    num_workers: int = 0

    @property
    def urgency(self) -> tuple[int, float, int]:
        """As in a campaign of equal priorities: most rounds to go first, then the largest student, then the grid's."""
        return (self.round - len(self.shape.train_s), -sum(self.shape.work[self.round : self.round + 1]), self.number)


@dataclass(slots=True, kw_only=True)
class Result:
    """Seconds from start to end, and the device-seconds that were busy or lost, by reason."""

    makespan_s: float = 0.0
    spent_s: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("generating", "training", "starting"), 0.0)
    )
    num_engine_starts: int = 0


class CampaignSimulation:
    """Steps of one second."""

    def __init__(self, shapes: Sequence[RunShape], devices: Devices) -> None:
        self._shares = Shares(devices)
        self._devices = devices
        self._runs = [_State(number=number, shape=shape) for number, shape in enumerate(shapes)]
        self._loading: list[float] = []
        self._num_ready = 0
        self._leaving: list[float] = []
        self._result = Result()
        self._now = 0.0
        for run in self._runs:
            self._begin_round(run)

    def run(self) -> Result:
        """To the end of the last run."""
        while any(run.phase != "done" for run in self._runs):
            self._move_engines()
            self._train()
            self._generate()
            self._now += 1.0
        self._result.makespan_s = self._now
        return self._result

    @property
    def _num_engines(self) -> int:
        return len(self._loading) + self._num_ready + len(self._leaving)

    def _demand(self) -> Demand:
        return Demand(
            num_stages=sum(run.phase in ("generate", "tail") for run in self._runs),
            num_waiting=sum(run.phase == "wait" for run in self._runs),
            num_training=sum(run.phase == "train" for run in self._runs),
            num_workers=sum(run.num_workers for run in self._runs),
        )

    def _remaining(self) -> Remaining:
        runs = [run for run in self._runs if run.phase != "done"]
        begun = {"generate": 0, "tail": 0, "wait": 1, "train": 1}
        return Remaining(
            num_rows=sum(sum(run.shape.num_rows[run.round + begun[run.phase] :]) for run in runs),
            work=sum(sum(run.shape.work[run.round + (run.phase == "train") :]) for run in runs),
        )

    def _training_s(self) -> float:
        training = [run for run in self._runs if run.phase == "train"]
        spent_s = {run.number: (self._now - run.busy_from + TRAINER_START_S) * run.num_workers for run in training}
        should_s = {run.number: self._shares.work_s(run.shape.work[run.round]) for run in training}
        return sum(max(0.0, should_s[number] - spent_s[number] * self._devices.per_worker) for number in spent_s)

    def _move_engines(self) -> None:
        self._leaving = [until for until in self._leaving if until > self._now]
        ready = [until for until in self._loading if until <= self._now]
        self._loading = [until for until in self._loading if until > self._now]
        self._num_ready += len(ready)
        demand = self._demand()
        num_many = len(self._loading) + self._num_ready - self._shares.num_units(demand)
        while num_many > 0 and self._loading:
            self._loading.pop()
            num_many -= 1
        leaving = min(max(0, num_many), self._num_ready)
        self._num_ready -= leaving
        self._leaving += [self._now + TAIL_S] * leaving
        room = self._devices.num_devices - demand.num_workers * self._devices.per_worker
        num_free = int(room / self._devices.per_engine) - self._num_engines
        for _ in range(min(-num_many, num_free) if demand.num_stages else 0):
            self._loading.append(self._now + ENGINE_START_S)
            self._result.num_engine_starts += 1
        self._result.spent_s["starting"] += len(self._loading) * self._devices.per_engine

    def _train(self) -> None:
        for run in self._runs:
            if run.phase == "train" and run.until <= self._now:
                held_s = run.until - run.busy_from + TRAINER_START_S
                device_s = held_s * run.num_workers * self._devices.per_worker
                self._shares.learn("train", device_s, 1, run.shape.work[run.round])
                run.num_workers = 0
                run.round += 1
                self._begin_round(run)
        waiting = sorted((run for run in self._runs if run.phase == "wait"), key=lambda run: run.urgency)
        for place, run in enumerate(waiting):
            work = run.shape.work[run.round]
            part = work / sum(other.shape.work[other.round] for other in waiting[place:])
            least = self._shares.least_workers(work, self._remaining(), self._training_s())
            num = self._shares.num_workers(self._demand(), self._num_engines, part, least)
            if not num:
                break
            run.phase, run.num_workers = "train", num
            run.busy_from = self._now + TRAINER_START_S
            run.until = run.busy_from + run.shape.train_s[run.round] / num**SCALING
        training = [run for run in self._runs if run.phase == "train"]
        for run in training:
            spent = "training" if run.busy_from <= self._now else "starting"
            self._result.spent_s[spent] += run.num_workers * self._devices.per_worker

    def _generate(self) -> None:
        room = float(self._num_ready)
        for run in sorted(self._runs, key=lambda run: run.urgency):
            if run.phase == "generate" and room > 0:
                done = min(room, run.left)
                room -= done
                run.left -= done
                self._result.spent_s["generating"] += done * self._devices.per_engine
                self._shares.learn("generate", done * self._devices.per_engine, 0)
                if run.left <= 0:
                    run.phase, run.until = "tail", self._now + TAIL_S
            elif run.phase == "tail" and run.until <= self._now:
                run.phase = "wait"
                self._shares.learn("generate", 0.0, 1, run.shape.num_rows[run.round])

    def _begin_round(self, run: _State) -> None:
        if run.round == len(run.shape.train_s):
            run.phase = "done"
        else:
            run.left = run.shape.generate_s[run.round]
            run.phase = "generate" if run.left else "wait"
