"""The forecast's arithmetic, by hand; and what it says of jobs that either mode suits."""

from dataclasses import replace
from typing import Any

import pytest

from s3ray.config.job import RunConfig
from s3ray.config.load import validate
from s3ray.launch.forecast import Figures, forecast, guess, measured, predict, rows_by_round, says_ahead
from s3ray.monitor.metrics import PoolMetrics, RoundMetrics, TimeMetrics, TimeShares
from s3ray.monitor.run_view import EngineMetrics
from s3ray.placement.place import plan_placement
from s3ray.placement.plan import NodeFacts, Plan
from tests.monitor.run_folder import some_metrics

FIGURES = Figures(
    source="by hand",
    tokens_s=100,
    samples_s=10,
    engine_start_s=60,
    worker_start_s=10,
    tokens_per_row=50,
    mistakes=40,
)


def job(engines: int, workers: int, mode: str = "swap", engine: str = "vllm", **strategy: Any) -> RunConfig:
    raw = {
        "name": "job",
        "task": "imdb",
        "strategy": {"seed_examples": 800, "rows": 1600, "rounds": 1, **strategy},
        "generator": {"engine": engine, "model": "m", "engines": engines},
        "student": {"workers": workers, "epochs": 2, "batch_size": 64},
        "placement": {"mode": mode},
    }
    return validate(RunConfig, raw)


def planned(config: RunConfig, num_gpus: int = 4, num_cpus: int = 8) -> Plan:
    return plan_placement(config, [NodeFacts(node_id="n0", num_cpus=num_cpus, num_gpus=num_gpus)])


def said(config: RunConfig, figures: Figures = FIGURES, **node: int) -> str:
    return "\n".join(forecast(config, planned(config, **node), 2, figures))


def test_swap_by_hand() -> None:
    """Two rounds of 800 rows: 100 s of writing each; 1600 and 3200 samples: 40 s and 80 s; 2 x 70 s of starting."""
    found = predict("swap", 4, 4, [800, 800], job(4, 4), "gpu", FIGURES)
    assert found.seconds == pytest.approx(2 * 100 + 40 + 80 + 2 * 70)
    assert found.idle_share == pytest.approx(140 / 460)


def test_split_by_hand() -> None:
    """Three devices write for 133 s twice while one waits; then it trains for 160 s and 320 s and three wait.

    Engines and train workers start once.
    """
    found = predict("split", 3, 1, [800, 800], job(3, 1), "gpu", FIGURES)
    writing, training = 2 * 800 * 50 / 300, 160 + 320
    assert found.seconds == pytest.approx(60 + 10 + writing + training)
    assert found.idle_share == pytest.approx(1 - (3 * writing + training) / (4 * found.seconds))


@pytest.mark.parametrize(("ahead", "tokens_s"), [(0.1, 100), (1.0, 100), (1.0, 1)])
def test_what_is_written_ahead_in_split_hides_behind_the_training_before_it(ahead: float, tokens_s: float) -> None:
    """600 rows in each of rounds 2 and 3; the students before them are trained for 240 s and 360 s."""
    figures = replace(FIGURES, tokens_s=tokens_s)

    def seconds(mode: str, share: float) -> float:
        config = job(3, 1, "split", rows=2400, rounds=3, ahead=share)
        return predict(mode, 3, 1, [800, 400, 600, 600], config, "gpu", figures).seconds

    ahead_s = ahead * 600 * 50 / (3 * tokens_s)
    assert seconds("split", 0.0) - seconds("split", ahead) == pytest.approx(min(ahead_s, 240) + min(ahead_s, 360))
    assert seconds("swap", ahead) == seconds("swap", 0.0)


def test_a_plan_says_what_is_written_ahead_and_whether_that_saves_time() -> None:
    def told(mode: str, **strategy: Any) -> list[str]:
        config = job(3, 1, mode, **strategy)
        return list(says_ahead(config, planned(config)))

    share = "strategy.ahead: 50% of rounds 2-4 from mistakes of the student before the last one"
    assert told("split", rounds=4, ahead=0.5) == [f"{share}, written while the last one is trained"]
    (swap,) = told("swap", rounds=4, ahead=0.5)
    assert swap.startswith(f"{share}; it saves no time in swap")
    assert told("split", rounds=2, ahead=0.5)[0].startswith("strategy.ahead: 50% of round 2 from")
    assert told("split", rounds=4) == told("split", rounds=1, ahead=0.5) == []


def test_a_worker_more_saves_nothing_where_the_batch_has_no_rows_for_it_or_a_step_is_as_short_as_it_gets() -> None:
    def training_s(num_gpus: float, batch_size: int, samples_s: float = 10) -> float:
        config = job(4, 4)
        student = config.student.model_copy(update={"batch_size": batch_size})
        figures = replace(FIGURES, samples_s=samples_s, engine_start_s=0, worker_start_s=0, tokens_per_row=0)
        config = config.model_copy(update={"student": student})
        return predict("swap", 4, num_gpus, [800], config, "gpu", figures).seconds

    assert training_s(2, batch_size=16) == pytest.approx(training_s(1, batch_size=16) / 2) == pytest.approx(80)
    assert training_s(8, batch_size=16) == training_s(2, batch_size=16)
    assert training_s(4, batch_size=64, samples_s=1e6) == training_s(1, batch_size=64, samples_s=1e6) > 0


def test_engines_and_train_workers_on_cores_do_not_start_again() -> None:
    on_gpu = predict("swap", 4, 4, [800, 800], job(4, 4), "gpu", FIGURES)
    on_cpu = predict("swap", 4, 4, [800, 800], job(4, 4), "cpu", FIGURES)
    assert on_gpu.seconds - on_cpu.seconds == pytest.approx(60 + 10)


@pytest.mark.parametrize("mode", ["swap", "split"])
def test_long_phases_suit_swap(mode: str) -> None:
    config = job(4, 4) if mode == "swap" else job(3, 1, "split")
    text = said(config, replace(FIGURES, tokens_s=10, samples_s=1))
    assert "swap suits this job better: the phases of one run alternate" in text
    assert "by hand" in text


def test_short_phases_and_slow_starts_suit_split() -> None:
    assert "split suits this job better: in swap engines leave for every training, and 2 starts of 600 s" in said(
        job(4, 4), replace(FIGURES, engine_start_s=600)
    )


def test_a_plan_says_what_starts_cost() -> None:
    assert said(job(4, 4)).splitlines()[-1] == (
        "starts in swap: engines 2 x 60 s, train workers 2 x 10 s: 30% of its 7 min 40 s"
    )
    split = said(job(3, 1, "split")).splitlines()[-1]
    assert split.startswith("starts in split: engines 1 x 60 s, train workers 1 x 10 s: ")


def test_engines_that_sleep_start_once_and_wake_later() -> None:
    host = NodeFacts(node_id="n", num_cpus=16, num_gpus=4, accelerator="H100", memory_gib=400)
    config = job(4, 4)
    plan = plan_placement(config, [host])
    line = list(forecast(config, plan, 2, FIGURES))[-1]
    assert line.startswith("starts in swap: engines 1 x 60 s and, out of sleep, 1 x 10 s, train workers 2 x 10 s: ")
    stops, sleeps = (predict("swap", 4, 4, [800, 800], config, "gpu", FIGURES, sleeps=each) for each in (False, True))
    assert stops.seconds - sleeps.seconds == pytest.approx(50)


def test_the_best_split_is_compared() -> None:
    assert "split (3 + 1 GPUs)" in said(job(4, 4), replace(FIGURES, tokens_s=1, samples_s=1000))
    assert "split (1 + 3 GPUs)" in said(job(4, 4), replace(FIGURES, tokens_s=1000, samples_s=1))


def test_one_device_cannot_be_split() -> None:
    assert "split needs more than these 1 GPUs" in said(job(1, 1), num_gpus=1)


def test_engines_without_a_device_have_no_mode() -> None:
    assert said(job(4, 4, engine="fake")) == "placement.mode changes nothing here: these engines hold no device"


def test_a_guess_says_that_it_is_one() -> None:
    config = job(2, 1)
    assert "not from a run" in said(config, guess(config, 300, "cpu"), num_gpus=0)


def test_rows_by_round() -> None:
    assert rows_by_round(job(1, 1), 2, 40) == [800, 800]
    assert rows_by_round(job(1, 1, rows=None, per_mistake=3), 3, 40) == [800, 120, 120]
    assert rows_by_round(job(1, 1, name="zerogen", rows=900), 1, 40) == [900]


def _time(seconds: float, busy: float, starting: float = 0.0, workers: int | None = None) -> TimeShares:
    rest = dict.fromkeys(("waiting_for_work", "waiting_for_the_other_phase", "recovering"), 0.0)
    return TimeShares(workers=workers, seconds=seconds, busy=busy, starting=starting, **rest)


def test_an_earlier_run_tells_the_figures() -> None:
    config = job(4, 2)
    rounds = [
        RoundMetrics(round=0, rows=800, accepted=800, mistakes=30),
        RoundMetrics(round=1, rows=1600, accepted=800),
    ]
    metrics = some_metrics(
        rounds=tuple(rounds),
        time=TimeMetrics(
            engines={f"engine-{number}": _time(100.0, 0.5) for number in range(4)},
            trainers={"train workers": _time(200.0, 0.4, 0.2, workers=2)},
            total=_time(0.0, 0.0),
        ),
        pool=PoolMetrics(total=EngineMetrics(output_tokens=80_000)),
        engine_start_s=25.0,
    )
    found = measured(metrics, config, planned(config), guess(config, 300, "gpu"))
    assert found == Figures(
        source="from the earlier run in this folder",
        tokens_s=80_000 / 200,
        samples_s=2 * 2400 / 80,
        engine_start_s=25,
        worker_start_s=20 / 2,
        tokens_per_row=50,
        mistakes=30,
    )


def test_what_an_earlier_run_cannot_tell_is_guessed() -> None:
    config = job(4, 2)
    guessed = guess(config, 300, "gpu")
    assert measured(some_metrics(), config, planned(config), guessed) == guessed
