"""How long a job would take in either placement mode, and how much of its devices' time would be idle.

A simple model: the phases of a run strictly alternate, except for what is written ahead in split. Devices generate at
one rate and train at another, and engines and train workers take some time to start. Pure. Figures come from an earlier
run in the same folder, or are guesses.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from s3ray.config.job import RunConfig
from s3ray.monitor.metrics import Metrics, TimeShares
from s3ray.placement.place import most_workers
from s3ray.placement.plan import Plan, workers_stay
from s3ray.placement.refusals import needs_device
from s3ray.strategies import make_strategy
from s3ray.text import duration

_MISTAKE_SHARE = 0.2  # of gold, guessed
_ROW_SHARE = 0.6  # tokens generated per kept row, as a share of max_tokens, guessed
_LEAST_STEP_S = 0.014  # starting a GPU's kernels takes so long, however few rows a step has; guessed
_WAKE_S = 10.0  # an engine whose weights wait in the host's memory, guessed
_MANY = 1_000_000  # rows of a round: no share of so many is rounded down to none
_ALIKE = 0.05  # a smaller difference means nothing: forecasts are not that exact


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures that the forecast is computed from, per device (a GPU or a core), and their ``source`` in words.

    ``tokens_s`` and ``samples_s`` are rates of one busy device, ``engine_start_s`` and ``worker_start_s`` the seconds
    until all engines or all train workers are ready, ``tokens_per_row`` the tokens generated for each kept row, and
    ``mistakes`` the number of mistakes that a student makes.
    """

    source: str
    tokens_s: float
    samples_s: float
    engine_start_s: float
    worker_start_s: float
    tokens_per_row: float
    mistakes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One mode: the devices of engines and of train workers, seconds in all, and the idle share of device time.

    A device counts as idle while it waits and while something starts on it. Of ``seconds``, engines and train workers
    start in ``starting_s``.
    """

    engine_devices: float
    worker_devices: float
    seconds: float
    idle_share: float
    starting_s: float


def guess(config: RunConfig, num_gold: int, device: str) -> Figures:
    """Figures for a job that was never run, whose mistakes are mined on ``num_gold`` rows.

    Orders of magnitude only: a generator of a few billion parameters and a student of a hundred million on a GPU; a
    generator and a student of some ten to a hundred million on a core.
    """
    on_gpu = device == "gpu"
    return Figures(
        source=f"from guesses for a {'GPU' if on_gpu else 'core'}, not from a run",
        tokens_s=2000.0 if on_gpu else 50.0,
        samples_s=300.0 if on_gpu else 5.0,
        engine_start_s=90.0 if on_gpu else 30.0,
        worker_start_s=20.0,
        tokens_per_row=_ROW_SHARE * config.generator.sampling.max_tokens,
        mistakes=_MISTAKE_SHARE * num_gold,
    )


def measured(metrics: Metrics, config: RunConfig, plan: Plan, guessed: Figures) -> Figures:
    """Figures from the metrics of an earlier run with this plan's devices, and guesses for those that it lacks."""
    time, rounds = metrics.time, metrics.rounds
    if time is None or not rounds:
        return guessed
    engine_devices, worker_devices = _devices(plan)
    writing_s, training_s = _busy(time.engines), _busy(time.trainers)
    tokens, accepted = metrics.pool.total.output_tokens, sum(entry.accepted for entry in rounds)
    samples = config.student.epochs * sum(entry.rows for entry in rounds)
    mistakes = [entry.mistakes for entry in rounds if entry.mistakes is not None]
    worker_start_s = sum(row.seconds * (row.starting or 0) / (row.workers or 1) for row in time.trainers.values())
    per_engine, per_worker = engine_devices / max(1, len(plan.engines)), worker_devices / plan.num_workers
    return Figures(
        source="from the earlier run in this folder",
        tokens_s=tokens / writing_s / per_engine if tokens and writing_s else guessed.tokens_s,
        samples_s=samples / training_s / per_worker if training_s else guessed.samples_s,
        engine_start_s=metrics.engine_start_s or guessed.engine_start_s,
        worker_start_s=worker_start_s / _worker_starts(plan.mode, plan.device, len(rounds)) or guessed.worker_start_s,
        tokens_per_row=tokens / accepted if tokens and accepted else guessed.tokens_per_row,
        mistakes=sum(mistakes) / len(mistakes) if mistakes else guessed.mistakes,
    )


def forecast(config: RunConfig, plan: Plan, num_rounds: int, figures: Figures) -> Iterator[str]:
    """Lines: both modes on the devices of this plan, which one suits the job and why, and what starts cost in its mode.

    ``num_rounds`` counts the rounds that train a student.
    """
    if not plan.engines:
        return
    if not needs_device(config):
        yield "placement.mode changes nothing here: these engines hold no device"
        return
    engine_devices, worker_devices = _devices(plan)
    is_swap = plan.mode == "swap"
    num_devices = max(engine_devices, worker_devices) if is_swap else engine_devices + worker_devices
    rows = rows_by_round(config, num_rounds, figures.mistakes)
    step = engine_devices / len(plan.engines) if plan.device == "gpu" else 1
    unit = "GPUs" if plan.device == "gpu" else "cores"
    sleeps = plan.sleep_level > 0
    swap = predict("swap", num_devices, num_devices, rows, config, plan.device, figures, sleeps=sleeps)
    own = swap if is_swap else predict("split", engine_devices, worker_devices, rows, config, plan.device, figures)
    splits = [
        predict("split", num * step, num_devices - num * step, rows, config, plan.device, figures)
        for num in range(1, int(num_devices / step) + 1)
        if num_devices - num * step >= 1
    ]
    line = f"forecast ({figures.source}): swap {duration(swap.seconds)}, {swap.idle_share:.0%} of device time idle"
    if not splits:
        yield f"{line}; split needs more than these {num_devices:g} {unit}"
        yield _starts(own, plan, num_rounds, figures)
        return
    split = min(splits, key=lambda prediction: prediction.seconds)
    yield (
        f"{line}; split ({split.engine_devices:g} + {split.worker_devices:g} {unit}) {duration(split.seconds)}, "
        f"{split.idle_share:.0%} idle"
    )
    yield _advice(swap, split, num_rounds, figures)
    yield _starts(own, plan, num_rounds, figures)


def _starts(own: Prediction, plan: Plan, num_rounds: int, figures: Figures) -> str:
    """What starts cost in the plan's own mode."""
    num_starts = num_rounds if plan.engines_leave else 1
    engines = f"engines {num_starts} x {figures.engine_start_s:.0f} s"
    if plan.sleep_level and num_rounds > 1:
        engines += f" and, out of sleep, {num_rounds - 1} x {_WAKE_S:.0f} s"
    workers = f"train workers {_worker_starts(plan.mode, plan.device, num_rounds)} x {figures.worker_start_s:.0f} s"
    share = own.starting_s / own.seconds
    return f"starts in {plan.mode}: {engines}, {workers}: {share:.0%} of its {duration(own.seconds)}"


def _worker_starts(mode: str, device: str, num_students: int) -> int:
    """How often train workers start for so many students."""
    return 1 if workers_stay(mode, device) else num_students


def rows_by_round(config: RunConfig, num_rounds: int, mistakes: float) -> list[float]:
    """Rows that each round adds."""
    strategy = make_strategy(config.strategy)
    return [strategy.num_rows(num, round(mistakes)) for num in range(num_rounds)]


def predict(
    mode: str,
    engine_devices: float,
    worker_devices: float,
    rows: Sequence[float],
    config: RunConfig,
    device: str,
    figures: Figures,
    *,
    sleeps: bool = False,
) -> Prediction:
    """Predict one mode with so many devices for engines and for train workers; ``rows`` has the new rows per round.

    In split, what a round writes ahead (``strategy.ahead``) is written while the student before it is trained.

    On GPUs no more train workers are at work than a batch has rows for, and a step has a least duration.
    """
    write_s = [num * figures.tokens_per_row / (figures.tokens_s * engine_devices) for num in rows]
    samples = [config.student.epochs * sum(rows[: place + 1]) for place in range(len(rows))]
    num_trainers = min(worker_devices, most_workers(config.student.batch_size, device) or worker_devices)
    least_s = _LEAST_STEP_S / config.student.batch_size if device == "gpu" else 0.0
    train_s = [num * max(1 / (figures.samples_s * num_trainers), least_s) for num in samples]
    # Engines that leave start again in every round, or wake (``sleeps``); on CPUs they only stay idle.
    num_again = len(rows) - 1 if mode == "swap" and device == "gpu" else 0
    again_s = num_again * (_WAKE_S if sleeps else figures.engine_start_s)
    workers_s = _worker_starts(mode, device, len(rows)) * figures.worker_start_s
    starting_s = figures.engine_start_s + again_s + workers_s
    seconds = starting_s + sum(write_s) + sum(train_s)
    if mode == "split":
        seconds -= sum(map(min, _ahead_s(config, rows, write_s), train_s))
    at_work = engine_devices * sum(write_s) + num_trainers * sum(train_s)
    num_devices = engine_devices + worker_devices if mode == "split" else max(engine_devices, worker_devices)
    return Prediction(
        engine_devices=engine_devices,
        worker_devices=worker_devices,
        seconds=seconds,
        starting_s=starting_s,
        idle_share=1 - at_work / (num_devices * seconds),
    )


def _ahead_s(config: RunConfig, rows: Sequence[float], write_s: Sequence[float]) -> Iterator[float]:
    """Seconds that each round but the first writes ahead."""
    strategy = make_strategy(config.strategy)
    for num in range(1, len(rows)):
        share = strategy.num_ahead(num, round(rows[num])) / rows[num] if rows[num] else 0.0
        yield share * write_s[num]


def says_ahead(config: RunConfig, plan: Plan) -> Iterator[str]:
    """What ``strategy.ahead`` does in this plan, if anything."""
    strategy = make_strategy(config.strategy)
    rounds = [num for num in range(strategy.last_round + 1) if strategy.num_ahead(num, _MANY)]
    if not rounds:
        return
    line = (
        f"strategy.ahead: {config.strategy.ahead:.0%} of round{'s' * (len(rounds) > 1)} "
        f"{'-'.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))} from mistakes of the student before the last one"
    )
    if plan.engines_leave or plan.sleep_level:
        yield f"{line}; it saves no time in swap, where engines make way for every training (placement.mode: split)"
    else:
        yield f"{line}, written while the last one is trained"


def _advice(swap: Prediction, split: Prediction, num_rounds: int, figures: Figures) -> str:
    campaign = "the phases of one run alternate, so in split one side always waits (several runs on one pool fill it)"
    if abs(swap.seconds - split.seconds) <= _ALIKE * max(swap.seconds, split.seconds):
        return f"either mode suits this job: {campaign}, in swap engines start again and again"
    if swap.seconds < split.seconds:
        return f"swap suits this job better: {campaign}"
    starts = f"{num_rounds} starts of {figures.engine_start_s:.0f} s"
    return f"split suits this job better: in swap engines leave for every training, and {starts} cost more than waiting"


def _devices(plan: Plan) -> tuple[float, float]:
    """The plan's devices for engines and for train workers: GPUs, or cores (in swap mode all cores for both)."""
    if plan.device == "gpu":
        return sum(engine.num_gpus for engine in plan.engines), plan.num_workers * plan.gpus_per_worker
    cores = plan.num_workers * plan.cpus_per_worker
    return (sum(engine.num_cpus for engine in plan.engines) if plan.mode == "split" else cores), cores


def _busy(rows: Mapping[str, TimeShares]) -> float:
    return sum(row.seconds * (row.busy or 0) for row in rows.values())
