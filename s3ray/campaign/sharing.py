"""How the runs of a campaign share engines and devices: the pool that serves them all, and their turns to train.

Training comes first: it ends soon, and the next round of generation waits for it. But engines that leave must be loaded
again, so they keep the part of the devices that generation has cost so far, and only those beyond that part leave and
come back. While there is nothing to generate, students take as many workers as fit. Towards the end a student takes as
many as it needs to end no later than all the rest.
"""

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from s3ray.campaign.reuse import SharedWork, TrainedStudent, copy_student
from s3ray.errors import PoolError, S3RayError
from s3ray.generator.pool import Emit, GeneratorPool
from s3ray.generator.shared_pool import SharedSource, Urgency, by_stage
from s3ray.monitor.accounting import BusyClock
from s3ray.rounds.stage import Stage
from s3ray.rounds.students import Trainer
from s3ray.storage.run_folder import RunStore
from s3ray.tables import Chunk
from s3ray.telemetry.events import AnswersDealt
from s3ray.types import EngineReport, StudentJob, StudentResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """The devices of a campaign and what each user takes: GPUs that engines and train workers pass to each other.

    Where ``per_engine`` is below 1, as many engines as fit share a device, and leave it together. A *unit* is what
    leaves as one: an engine with its devices, or all engines on one device. A student takes ``min_workers`` to
    ``max_workers`` of ``per_worker`` devices. Where ``is_split``, the engines keep devices of their own, and
    ``num_trainings`` students train at once, with ``max_workers`` each.
    """

    num_devices: int
    per_engine: float
    per_worker: float
    num_engines: int
    min_workers: int
    max_workers: int
    is_split: bool
    num_trainings: int = 0

    @property
    def per_unit(self) -> float:
        """Devices that a unit takes."""
        return max(1.0, self.per_engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The demand at a moment: stages that want answers, students that wait, students that train, and their workers."""

    num_stages: int
    num_waiting: int
    num_training: int
    num_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What a campaign has still to do: rows of rounds that are not closed, and the work of students not yet trained.

    The work of a student is rows times epochs, as planned.
    """

    num_rows: float
    work: float


# A student does not wait for the last quarter of the workers that it could use.
_ENOUGH = 0.75


class Shares:
    """Divides the devices of a campaign by what rounds and students have cost so far (``learn``)."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._cost = {"generate": [0.0, 0, 0.0], "train": [0.0, 0, 0.0]}

    def learn(self, phase: str, device_s: float, num_done: int, amount: float = 0.0) -> None:
        """Add ``num_done`` generated rounds (``generate``) or trained students (``train``) and their device-seconds.

        ``amount`` is the number of their rows, or their work.
        """
        self._cost[phase][0] += device_s
        self._cost[phase][1] += num_done
        self._cost[phase][2] += amount

    def least_workers(self, work: float, remaining: Remaining, training_s: float) -> int:
        """The fewest workers with which a student of this ``work`` ends no later than all the rest could.

        The rest could end when its device-seconds are spent with no device idle; ``training_s`` are those that students
        in training still need. Never more workers than fit beside the engines' part of the devices; one while nothing
        is known of the cost of rows or of students.
        """
        devices = self._devices
        generate_s, _, num_rows = self._cost["generate"]
        if devices.is_split or not (num_rows and self.work_s(work)):
            return 1
        all_s = remaining.num_rows * generate_s / num_rows + self.work_s(remaining.work) + training_s
        beside = devices.num_devices - (self._own_part() * devices.per_unit if remaining.num_rows else 0)
        most = min(devices.max_workers, int(beside // devices.per_worker))
        return max(1, min(most, math.ceil(self.work_s(work) / max(all_s / devices.num_devices, 1.0))))

    def work_s(self, work: float) -> float:
        """Device-seconds that a student of this work should take; 0 while no student was trained."""
        train_s, _, done = self._cost["train"]
        return work * train_s / done if done else 0.0

    def num_units(self, demand: Demand) -> int:
        """Units that may hold devices; where fewer engines are wanted, so many units are enough."""
        devices = self._devices
        if devices.is_split:
            return devices.num_engines
        each = devices.min_workers if demand.num_stages else devices.max_workers
        wanted = (demand.num_workers + demand.num_waiting * each) * devices.per_worker
        beside = int((devices.num_devices - wanted) // devices.per_unit)
        if demand.num_stages:
            # However much generation has cost, one student can train.
            least = max(demand.num_workers, devices.min_workers * bool(demand.num_waiting)) * devices.per_worker
            beside = max(beside, min(self._own_part(), int((devices.num_devices - least) // devices.per_unit)))
        return max(0, min(beside, devices.num_engines))

    def num_workers(self, demand: Demand, num_units: int, part: float, least: int = 1) -> int:
        """Workers for the next student while ``num_units`` of engines hold devices; 0: it has to wait.

        ``part`` (0 to 1) is its part of the work of all students that wait; ``least`` is how many it needs.
        """
        devices = self._devices
        if devices.is_split:
            return devices.max_workers if demand.num_training < devices.num_trainings else 0
        room = self._room(demand, min(num_units, self.num_units(demand)))  # once those that are too many have left
        wanted = min(max(round(room * part), least, devices.min_workers), devices.max_workers)
        free = self._room(demand, num_units)
        if devices.min_workers <= free < wanted and free >= _ENOUGH * wanted:
            return free
        return wanted if wanted <= free else 0

    def _room(self, demand: Demand, num_units: int) -> int:
        """Train workers that would fit beside ``num_units`` of engines."""
        devices = self._devices
        free = devices.num_devices - demand.num_workers * devices.per_worker - num_units * devices.per_unit
        return int(free // devices.per_worker)

    def _own_part(self) -> int:
        """The number of units whose share of all devices is generation's share of the cost of a round."""
        most = self._devices.num_devices / self._devices.per_unit
        (generate_s, num_rounds, _), (train_s, num_students, _) = self._cost["generate"], self._cost["train"]
        if not (num_rounds and num_students):
            return max(1, int(most / 2))
        generate, train = generate_s / num_rounds, train_s / num_students
        return max(1, round(most * generate / (generate + train)))


_LOOK_EVERY_S = 0.25  # engines leave, and stages end, without a signal to those that wait


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A student that waits for devices: its work, and how many workers its batches have rows for."""

    work: float
    most_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """A student in training."""

    work: float
    num_workers: int
    started: float = field(default_factory=time.monotonic)


class DeviceQueue:
    """Grants devices for training, the most urgent student first, once engines have made room."""

    def __init__(
        self,
        devices: Devices,
        num_stages: Callable[[], int],
        num_units: Callable[[], int],
        remaining: Callable[[], Remaining],
    ) -> None:
        """``num_stages`` says how many stages want answers now, ``num_units`` how many units hold devices.

        ``remaining`` says what the campaign has still to do, students in training included.
        """
        self._shares = Shares(devices)
        self._per_worker = devices.per_worker
        self._num_stages = num_stages
        self._num_units = num_units
        self._remaining = remaining
        self._waiting: dict[Urgency, _Waiting] = {}
        self._training: list[_Training] = []
        self._changed = threading.Condition()

    def num_allowed(self) -> int:
        """Units of engines that may hold devices at this moment."""
        with self._changed:
            return self._shares.num_units(self._demand())

    @contextlib.contextmanager
    def training(self, urgency: Urgency, work: float, most_workers: int) -> Iterator[int]:
        """Hold the devices of one student, once it is its turn; yields its number of workers.

        No two students have the same ``urgency``; ``work`` (rows times epochs) is compared with that of waiting ones.
        ``most_workers`` is how many workers its batches have rows for.
        """
        with self._changed:
            self._waiting[urgency] = _Waiting(work=work, most_workers=most_workers)
            while not (num_workers := self._granted(urgency)):
                self._changed.wait(_LOOK_EVERY_S)
            del self._waiting[urgency]
            training = _Training(work=work, num_workers=num_workers)
            self._training.append(training)
        try:
            yield num_workers
        finally:
            with self._changed:
                self._training.remove(training)
                self._shares.learn("train", self._spent_s(training), 1, work)
                self._changed.notify_all()

    def learn_generation(self, device_s: float, num_rounds: int, num_rows: int) -> None:
        """Add device-seconds of generation, and rounds that were closed with their planned rows."""
        with self._changed:
            self._shares.learn("generate", device_s, num_rounds, num_rows)

    def _demand(self) -> Demand:
        return Demand(
            num_stages=self._num_stages(),
            num_waiting=len(self._waiting),
            num_training=len(self._training),
            num_workers=sum(training.num_workers for training in self._training),
        )

    def _spent_s(self, training: _Training) -> float:
        return (time.monotonic() - training.started) * training.num_workers * self._per_worker

    def _granted(self, urgency: Urgency) -> int:
        if min(self._waiting) != urgency:
            return 0
        own = self._waiting[urgency]
        part = own.work / sum(waiting.work for waiting in self._waiting.values())
        remaining, shares = self._remaining(), self._shares
        begun = sum(training.work for training in self._training)
        remaining = replace(remaining, work=max(own.work, remaining.work - begun))
        training_s = sum(max(0.0, shares.work_s(each.work) - self._spent_s(each)) for each in self._training)
        least = shares.least_workers(own.work, remaining, training_s)
        return min(own.most_workers, shares.num_workers(self._demand(), self._num_units(), part, least))


class PoolService:
    """Runs the pool in a thread, from the first stage on, and passes each stage its answers."""

    def __init__(
        self, pool: GeneratorPool, source: SharedSource, *, emit: Emit, on_busy: Callable[[float], None]
    ) -> None:
        """``pool`` shares ``source``. ``on_busy`` is called with newly reported busy seconds of engines."""
        self._pool = pool
        self._source = source
        self._emit = emit
        self._on_busy = on_busy
        self._boxes: dict[int, queue.SimpleQueue[Chunk]] = {}
        self._clock = BusyClock()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def answers(self, stage: Stage, *, served_task: str, urgency: Urgency) -> Iterator[Chunk]:
        """Answer the requests of a stage until it wants no more; see ``driver.Generator``.

        Raises:
            PoolError: no engine is left.
        """
        box: queue.SimpleQueue[Chunk] = queue.SimpleQueue()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="pool", daemon=True)
                self._thread.start()
            number = self._source.join(stage, served_task=served_task, urgency=urgency)
            self._boxes[number] = box
        try:
            while not stage.finished:
                self._raise_if_over()
                with contextlib.suppress(queue.Empty):
                    yield box.get(timeout=_LOOK_EVERY_S)
        finally:
            with self._lock:
                self._source.leave(number)
                del self._boxes[number]

    def close(self) -> None:
        """Stop the pool; stages under way end with an error."""
        self._source.close()
        if self._thread is not None:
            self._thread.join()
        self._pool.close()

    def _serve(self) -> None:
        try:
            for chunk in self._pool.generate(self._source):
                self._emit(AnswersDealt(rows=chunk.table.num_rows, engines=chunk.engines))
                newly_s = self._clock.newly(chunk.engines)
                self._on_busy(sum(newly_s.values()))
                computed = {engine: _computed(sums) for engine, sums in _by_engine(chunk.table).items()}
                with self._lock:
                    for number, table in by_stage(chunk.table):
                        if number in self._boxes:
                            own = _own_part(chunk, table, newly_s, computed)
                            self._boxes[number].put(Chunk(table=table, engines=own))
        except BaseException as error:  # it ends every run, each in its own thread
            self._error = error

    def _raise_if_over(self) -> None:
        if isinstance(self._error, S3RayError):
            raise type(self._error)(*self._error.args)
        if self._error is not None:
            raise PoolError(f"the pool of the campaign ended: {type(self._error).__name__}: {self._error}")
        if self._source.finished:
            raise PoolError("the campaign was stopped")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunGenerator:
    """The pool as one run sees it (``driver.Generator``)."""

    service: PoolService
    served_task: str
    urgency: Callable[[], Urgency]

    @property
    def works_while_training(self) -> bool:
        """Pool and device queue divide the devices."""
        return True

    def generate(self, source: Stage) -> Iterator[Chunk]:
        """Answer the requests of a stage."""
        return self.service.answers(source, served_task=self.served_task, urgency=self.urgency())

    def pause(self) -> None:
        """The engines go on with what other runs want."""

    def prepare(self) -> None:
        """Engines follow what the stages of all runs want; a round that has not begun wants nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrainer:
    """The devices for training as one run sees them (``students.Trainer``), and students that other runs have trained.

    ``make_trainer`` takes the number of workers, ``most_workers`` at most; ``work`` is how much a student is to learn.
    ``training_id`` identifies everything that shapes a student, ``questions`` everything that it is asked; ``on_copy``
    is called with each student that is copied from another run.
    """

    make_trainer: Callable[[int], Trainer]
    most_workers: int
    devices: DeviceQueue
    students: SharedWork[TrainedStudent]
    store: RunStore
    urgency: Callable[[], Urgency]
    work: Callable[[StudentJob], float]
    training_id: Callable[[StudentJob], str]
    questions: Callable[[StudentJob], str]
    on_copy: Callable[[TrainedStudent], None]

    def train(self, job: StudentJob) -> StudentResult:
        """Train one student once devices are free, or copy that of another run and only let it answer new questions.

        ``seconds["wait"]`` says how long devices were not free, ``seconds["all_workers"]`` how long each worker trained
        and scored, added up; ``seconds["all_workers_train"]`` leaves scoring out. A copied student's training counts as
        if this run had trained it: the costs are those of the method, however many runs use the student.
        """
        key, questions = self.training_id(job), self.questions(job)
        folder = job.output.removeprefix(f"{self.store.root}/")
        began = time.monotonic()
        with self.students.claimed(key) as found:
            if found is not None:
                known = found.result if found.questions == questions else None
                copy_student(found, self.store, folder, with_answers=known is not None)
                self.on_copy(found)
                if known is not None:
                    own_s = {"start": 0.0, "train": 0.0, "score": 0.0, "wait": time.monotonic() - began}
                    return replace(known, round=job.round, seconds={**known.seconds, **own_s})
            with self.devices.training(self.urgency(), self.work(job), self.most_workers) as num_workers:
                waited_s = time.monotonic() - began
                result = self.make_trainer(num_workers).train(job)
            training_s = num_workers * result.seconds["train"] + (found.training_s if found else 0.0)
            all_workers = {
                "all_workers": training_s + num_workers * result.seconds["score"],
                "all_workers_train": training_s,
            }
            result = replace(result, seconds={**result.seconds, "wait": waited_s, **all_workers})
            if found is None:
                made = TrainedStudent(
                    store=self.store, folder=folder, training_s=training_s, questions=questions, result=result
                )
                self.students.note(key, made)
        return result


def _own_part(
    chunk: Chunk, table: pa.Table, newly_s: Mapping[str, float], computed: Mapping[str, int]
) -> dict[str, EngineReport]:
    """The engines' reports, with the rows, tokens and busy seconds of one stage, whose part of the chunk is ``table``.

    ``newly_s`` are the busy seconds of each engine in this chunk, ``computed`` its tokens for all stages.
    """
    return {
        engine: replace(
            chunk.engines[engine],
            rows=sums["engine_count"],
            output_tokens=sums["num_output_tokens_sum"],
            own_busy_s=round(newly_s[engine] * _computed(sums) / max(1, computed[engine]), 3),
        )
        for engine, sums in _by_engine(table).items()
        if engine in chunk.engines
    }


def _by_engine(table: pa.Table) -> dict[str, dict[str, int]]:
    """Rows (``engine_count``) and sums of tokens (``num_output_tokens_sum`` ...) of each engine."""
    tokens = ("num_output_tokens", "num_prompt_tokens", "num_cached_tokens")
    sums = table.group_by("engine").aggregate([("engine", "count"), *((name, "sum") for name in tokens)])
    return {each["engine"]: each for each in sums.to_pylist()}


def _computed(sums: Mapping[str, int]) -> int:
    """Tokens that an engine computed: those of answers, and those of prompts that no cache held."""
    return sums["num_output_tokens_sum"] + sums["num_prompt_tokens_sum"] - sums["num_cached_tokens_sum"]
