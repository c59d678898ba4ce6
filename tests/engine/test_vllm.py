"""The real engine on a tiny random model: limits, seeds, refusals, prefix cache, and a killed EngineCore."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.processes import below
from s3ray.errors import EngineStartError
from s3ray.generator.pool import GeneratorPool
from s3ray.tables import outcomes_from_table
from s3ray.telemetry.events import EngineReady, Event
from s3ray.types import FailureReason, GenerationRequest, Outcome
from tests.models import make_llama
from tests.sources import InsistentSource, make_pool, make_request

pytestmark = [pytest.mark.engine, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


@dataclass
class Running:
    """A pool of one engine that tests share, and what it told."""

    pool: GeneratorPool
    events: list[Event]

    def answers(self, requests: list[GenerationRequest]) -> Iterator[list[Outcome]]:
        source = InsistentSource(requests)
        for chunk in self.pool.generate(source):
            batch = list(outcomes_from_table(chunk.table))
            source.settle(batch)
            yield batch

    def all_answers(self, requests: list[GenerationRequest]) -> dict[str, Outcome]:
        return {outcome.request_id: outcome for batch in self.answers(requests) for outcome in batch}

    def of(self, name: str) -> list[Event]:
        return [event for event in self.events if event.kind == name]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Iterator[Running]:
    events: list[Event] = []
    pool = make_pool(
        events,
        clean=False,
        engine="vllm",
        model=str(make_llama(tmp_path_factory.mktemp("llama"))),
        max_model_len=1024,
        max_num_batched_tokens=1024,
        sampling={"max_tokens": 24},
        dtype="float32",
    )
    yield Running(pool=pool, events=events)
    pool.close()


def requests(num: int, parent: str | None = None, start: int = 0) -> list[GenerationRequest]:
    return [make_request(index, parent) for index in range(start, start + num)]


def test_why_vllm_does_not_start_is_told_in_its_words_after_one_start(tmp_path: Path) -> None:
    """First in the file: an engine that runs would have the cores."""
    events: list[Event] = []
    pool = make_pool(events, engine="vllm", model=str(make_llama(tmp_path)), kv_cache_gib=900, dtype="float32")
    with pytest.raises(EngineStartError, match="less than requested memory for kv"):
        list(pool.generate(InsistentSource(requests(1))))
    pool.close()
    assert [event.kind for event in events] == ["engine_starting", "engine_lost", "engine_given_up"]


def test_every_request_is_answered_within_the_limits_asked_for(running: Running) -> None:
    outcomes = running.all_answers(requests(40))
    assert len(outcomes) == 40
    assert all(0 < outcome.num_output_tokens <= 24 for outcome in outcomes.values())
    (limits,) = [event.limits for event in running.events if isinstance(event, EngineReady)]
    assert (limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len) == (8, 1024, 1024)
    assert limits.dtype == "float32"
    assert limits.num_kv_tokens > 1024


def test_a_request_is_answered_alike_whenever_it_is_asked(running: Running) -> None:
    first = running.all_answers(requests(6))
    alone = running.all_answers(requests(1, start=3))
    assert alone["seed-3"].raw == first["seed-3"].raw
    assert len({outcome.raw for outcome in first.values()}) == 6, "seeds must differ between requests"


def test_prompts_with_a_common_beginning_are_computed_once(running: Running) -> None:
    outcomes = running.all_answers(requests(12, parent="the same mistake is shown to every one of these requests"))
    assert sum(outcome.num_cached_tokens > 0 for outcome in outcomes.values()) >= 4


def test_a_prompt_that_is_too_long_fails_alone(running: Running) -> None:
    too_long = requests(1, parent="long " * 400, start=40)
    outcomes = running.all_answers([*too_long, *requests(4)])
    assert outcomes["extrapolate-40"].reason == FailureReason.REFUSED_BY_ENGINE.value
    assert "1000 fit" in outcomes["extrapolate-40"].detail
    assert all(outcomes[f"seed-{index}"].num_output_tokens for index in range(4))


def kill_engine_core() -> None:
    next(below("EngineCore")).kill()


@pytest.mark.parametrize("is_idle", [False, True])
def test_a_killed_engine_core_is_replaced_and_loses_nothing(running: Running, is_idle: bool) -> None:
    num_lost = len(running.of("engine_lost"))
    # Enough work that most of it is still to be done when the first chunk is there.
    asked = requests(60 if is_idle else 600, start=100)
    seen: list[str] = []
    if is_idle:
        kill_engine_core()
    for batch in running.answers(asked):
        if not seen and not is_idle:
            kill_engine_core()
        seen += [outcome.request_id for outcome in batch]
    assert sorted(seen) == sorted(request.id for request in asked)
    assert len(running.of("engine_lost")) == num_lost + 1
