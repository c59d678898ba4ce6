"""The actor without Ray: every request that goes in comes out once, and a dead engine ends the process."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import pytest

from s3ray.config.job import FakeConfig, GeneratorConfig, SamplingConfig
from s3ray.curation.sketch import sketches
from s3ray.errors import EngineDeadError, InputError, RequestRefusedError
from s3ray.generator import actor as actor_module
from s3ray.generator.actor import EngineHost, Exchange, GeneratorActor, pack
from s3ray.generator.engines.base import Choice, EngineSpec, Timing
from s3ray.generator.engines.fake import FakeEngine
from s3ray.generator.worker import ServedTask, trial_prompts
from s3ray.tables import outcomes_from_table
from s3ray.tasks import Task
from s3ray.tasks.spec import Limits
from s3ray.types import FailureReason, Generation, Outcome, OutcomeStatus, Prompt, RejectionReason
from tests.sources import TASK, make_request

CONFIG = GeneratorConfig(engine="fake", prompt_form="completion")


def make_writer(
    request_s: float = 600.0, max_tokens: int = 256, retry_max_tokens: int | None = None, **fake: float
) -> EngineHost:
    config = GeneratorConfig(
        engine="fake",
        prompt_form="completion",
        request_s=request_s,
        sampling=SamplingConfig(max_tokens=max_tokens, retry_max_tokens=retry_max_tokens),
        fake=FakeConfig(**fake),  # type: ignore[arg-type]
    )
    spec = EngineSpec(engine="engine-0", config=config, device="cpu")
    return EngineHost(spec, {"": ServedTask(task=TASK, clean=True)}, run="test")


def make_actor(**fake: float) -> GeneratorActor:
    config = CONFIG.model_copy(update={"fake": FakeConfig(**fake)})  # type: ignore[arg-type]
    spec = EngineSpec(engine="engine-0", config=config, device="cpu")
    return GeneratorActor(spec, {"": ServedTask(task=TASK, clean=True)}, run="test")


def requests(num: int, start: int = 0) -> bytes:
    return pack([(make_request(index), 1) for index in range(start, start + num)])


NOTHING = pack([])


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))


async def collect(host: EngineHost, num: int, epoch: int = 1) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < num:
        outcomes += outcomes_of(await host.exchange(epoch, NOTHING))
    return outcomes


def outcomes_of(answer: Exchange) -> list[Outcome]:
    return list(outcomes_from_table(answer.table))


def test_texts_leave_with_their_sketches_where_a_run_asks_for_them() -> None:
    async def scenario(sketch: bool) -> None:
        spec = EngineSpec(engine="engine-0", config=CONFIG, device="cpu")
        host = EngineHost(spec, {"": ServedTask(task=TASK, clean=True, sketch=sketch)}, run="test")
        await host.start()
        outcomes = outcomes_of(await host.exchange(1, requests(4)))
        outcomes += await collect(host, 4 - len(outcomes))
        made = sketches([outcome.text for outcome in outcomes]) if sketch else [b""] * 4
        assert [outcome.sketch for outcome in outcomes] == made

    for sketch in (True, False):
        run(partial(scenario, sketch))


def test_an_engine_can_try_out_the_prompts_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    specs: list[EngineSpec] = []

    def make(spec: EngineSpec) -> FakeEngine:
        specs.append(spec)
        return FakeEngine(spec)

    async def scenario() -> None:
        await make_writer().start()

    monkeypatch.setattr(actor_module, "make_engine", make)
    run(scenario)
    [spec] = specs
    assert spec.trials == trial_prompts([ServedTask(task=TASK, clean=True)], "completion")
    assert spec.trials


def test_what_goes_in_comes_out_once() -> None:
    async def scenario() -> None:
        host = make_writer(tokens_per_s=2000.0)
        await host.start()
        outcomes = outcomes_of(await host.exchange(1, requests(40)))
        outcomes += await collect(host, 40 - len(outcomes))
        assert sorted(outcome.index for outcome in outcomes) == list(range(40))
        assert not (await host.exchange(1, NOTHING)).table.num_rows
        assert {outcome.status for outcome in outcomes} == {OutcomeStatus.ACCEPTED}
        assert all(outcome.text and outcome.raw and outcome.num_output_tokens for outcome in outcomes)

    run(scenario)


def test_timings_of_the_engine_travel_with_the_answers() -> None:
    async def scenario() -> None:
        host = make_writer()
        await host.start()
        told = [[Timing(queue_s=0.1, first_token_s=0.2, per_token_s=None)], []]
        host._engine.take_timings = lambda: told.pop(0)  # type: ignore[method-assign]
        assert [len((await host.exchange(1, requests(1, start))).timings) for start in (0, 1)] == [1, 0]

    run(scenario)


def test_each_request_is_worded_and_read_by_the_task_that_it_names() -> None:
    async def scenario() -> None:
        long = TASK.spec.model_copy(update={"limits": Limits(min_words=300, max_words=400)})
        tasks = {"short": ServedTask(task=TASK, clean=True), "long": ServedTask(task=Task(long), clean=True)}
        host = EngineHost(EngineSpec(engine="engine-0", config=CONFIG, device="cpu"), tasks, run="test")
        await host.start()
        named = [make_request(0)._replace(served_task="short"), make_request(1)._replace(served_task="long")]
        answer = await host.exchange(1, pack([(request, 1) for request in named]))
        outcomes = [*outcomes_of(answer), *await collect(host, 2 - answer.table.num_rows)]
        reasons = {outcome.index: outcome.reason for outcome in outcomes}
        assert reasons == {0: "", 1: RejectionReason.TOO_SHORT.value}

    run(scenario)


def verified(**fake: float) -> EngineHost:
    config = CONFIG.model_copy(update={"fake": FakeConfig(**fake)})  # type: ignore[arg-type]
    served_task = ServedTask(task=TASK, clean=True, verify=True)
    return EngineHost(EngineSpec(engine="engine-0", config=config, device="cpu"), {"": served_task}, run="test")


def test_the_engine_is_asked_for_the_label_of_what_it_wrote() -> None:
    async def scenario() -> None:
        plain, host = make_writer(), verified()
        for one in (plain, host):
            await one.start()
        before = {outcome.index: outcome for outcome in await answers_of(plain, 60)}
        outcomes = await answers_of(host, 60)
        assert len(outcomes) == 60
        for outcome in outcomes:
            assert len(outcome.label_probabilities) == 2
            assert sum(outcome.label_probabilities) == pytest.approx(1)
            unverified = before[outcome.index]
            assert (outcome.text, outcome.status) == (unverified.text, unverified.status)
            assert outcome.num_output_tokens == unverified.num_output_tokens + 1, "both calls are paid for"
            assert outcome.num_prompt_tokens > unverified.num_prompt_tokens
            assert unverified.label_probabilities == ()
        positive = TASK.labels.index("positive")
        agreed = sum(outcome.label_probabilities[positive] >= 0.5 for outcome in outcomes)
        assert 40 <= agreed < 60, "the fake engine favours the label that was asked for, mostly"

    run(scenario)


async def answers_of(host: EngineHost, num: int) -> list[Outcome]:
    outcomes = outcomes_of(await host.exchange(1, requests(num)))
    return outcomes + await collect(host, num - len(outcomes))


def test_notes_and_rejected_texts_have_no_verdict() -> None:
    async def scenario() -> None:
        host = verified()
        await host.start()
        notes = make_request(0)._replace(stage="reasons", template="reasons")
        cut = make_request(1)._replace(max_tokens=1)
        answer = await host.exchange(1, pack([(notes, 1), (cut, 1)]))
        outcomes = [*outcomes_of(answer), *await collect(host, 2 - answer.table.num_rows)]
        assert {outcome.index: outcome.status for outcome in outcomes}[1] is OutcomeStatus.REJECTED
        assert [outcome.label_probabilities for outcome in outcomes] == [(), ()]

    run(scenario)


def test_a_finished_example_is_judged_and_nothing_is_written() -> None:
    async def scenario() -> None:
        host = verified()
        await host.start()
        gold = make_request(0)._replace(stage="verdicts", template="verify", context={"text": "A fine film."})
        answer = await host.exchange(1, pack([(gold, 1)]))
        (outcome,) = [*outcomes_of(answer), *await collect(host, 1 - answer.table.num_rows)]
        assert (outcome.status, outcome.text, outcome.num_output_tokens) == (OutcomeStatus.ACCEPTED, "", 1)
        assert sum(outcome.label_probabilities) == pytest.approx(1)

    run(scenario)


def test_a_text_that_cannot_be_verified_is_not_lost() -> None:
    async def scenario() -> None:
        host = verified()
        await host.start()

        async def refuse(request_id: str, prompt: Prompt) -> Choice:
            raise RequestRefusedError("too long \ud83d")

        host._engine.choose = refuse  # type: ignore[method-assign]
        (outcome,) = await answers_of(host, 1)
        assert (outcome.status, outcome.label_probabilities) == (OutcomeStatus.ACCEPTED, ())
        assert outcome.detail == "not verified: too long \ufffd"
        assert outcome.text

    run(scenario)


def test_an_engine_that_cannot_tell_labels_apart_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(engine: FakeEngine, request_id: str, prompt: Prompt) -> Choice:
        raise RequestRefusedError("'pos' and 'posh' begin with the same token")

    async def scenario() -> None:
        monkeypatch.setattr(FakeEngine, "choose", refuse)
        with pytest.raises(InputError, match="begin with the same token") as refusal:
            await verified().start()
        assert refusal.value.field == "curation.verify"

    run(scenario)


def test_the_same_request_gives_the_same_text_on_any_engine() -> None:
    async def scenario() -> None:
        texts = []
        for _ in range(2):
            host = make_writer()
            await host.start()
            answer = await host.exchange(1, requests(5))
            outcomes = [*outcomes_of(answer), *await collect(host, 5 - answer.table.num_rows)]
            texts.append({outcome.index: outcome.text for outcome in outcomes})
        assert texts[0] == texts[1]

    run(scenario)


@pytest.mark.parametrize("is_told", [True, False])
def test_answers_of_an_earlier_stage_never_mix_with_a_later_one(is_told: bool) -> None:
    async def scenario() -> None:
        host = make_writer(tokens_per_s=50.0)
        await host.start()
        pending = asyncio.create_task(host.exchange(1, requests(20)))
        await asyncio.sleep(0)
        if is_told:
            await host.abort(1)
        outcomes = outcomes_of(await host.exchange(2, requests(8, start=100)))
        await host.abort(1)  # Ray may deliver it late
        assert not (await pending).table.num_rows
        assert not (await host.exchange(1, requests(5, start=50))).table.num_rows
        outcomes += await collect(host, 8 - len(outcomes), epoch=2)
        assert sorted(outcome.index for outcome in outcomes) == list(range(100, 108))

    run(scenario)


def test_a_dead_engine_gives_back_what_is_finished_and_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        monkeypatch.setattr(actor_module.os, "_exit", lambda code: ended.set())  # type: ignore[attr-defined]
        actor = make_actor(die_after=3)
        await actor.start()
        answer = await actor.exchange(1, requests(10), [])
        assert answer.death is not None
        assert "3 answers" in answer.death
        assert answer.table.num_rows == 3
        await ended.wait()

    run(scenario)


def test_last_words_that_no_file_can_hold_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        monkeypatch.setattr(actor_module.os, "_exit", lambda code: ended.set())  # type: ignore[attr-defined]
        actor = make_actor()
        await actor.start()

        async def die(request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
            raise EngineDeadError("gone with half \ud83d")

        actor._host._engine.generate = die  # type: ignore[method-assign]
        assert (await actor.exchange(1, requests(1), [])).death == "gone with half \ufffd"
        await ended.wait()

    run(scenario)


def test_a_death_that_open_requests_do_not_notice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        monkeypatch.setattr(actor_module.os, "_exit", lambda code: ended.set())  # type: ignore[attr-defined]
        monkeypatch.setattr(actor_module, "_REPLY_AFTER_S", 0.05)
        actor = make_actor()
        await actor.start()

        async def gone() -> None:
            raise EngineDeadError("gone in silence \ud83d")

        async def hang(request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
            await asyncio.Event().wait()
            raise AssertionError

        actor._host._engine.generate = hang  # type: ignore[method-assign]
        actor._host._engine.check = gone  # type: ignore[method-assign]
        assert (await actor.exchange(1, requests(3), [])).death == "gone in silence \ufffd"
        await ended.wait()

    run(scenario)


def test_a_request_that_breaks_the_task_or_never_ends_fails_alone() -> None:
    async def scenario() -> None:
        host = make_writer(tokens_per_s=0.001, request_s=0.05)
        await host.start()
        broken = make_request(0)._replace(id="broken", template="no-such-prompt")
        outcomes = outcomes_of(await host.exchange(1, pack([(broken, 1), (make_request(1), 1)])))
        outcomes += await collect(host, 2 - len(outcomes))
        reasons = {outcome.request_id: outcome.reason for outcome in outcomes}
        assert reasons == {"broken": FailureReason.ERROR.value, "seed-1": FailureReason.TIMEOUT.value}

    run(scenario)


@pytest.mark.parametrize(
    "wrong", [{"num_output_tokens": "many"}, {"finish_reason": object()}, {"num_cached_tokens": 2**70}]
)
def test_an_outcome_that_no_table_can_hold_fails_alone(wrong: dict[str, object]) -> None:
    async def scenario() -> None:
        host = make_writer()
        await host.start()
        write = host._engine.generate

        async def write_wrongly(request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
            told = await write(request_id, prompt, seed=seed, max_tokens=max_tokens)
            return replace(told, **wrong) if seed == 3 else told  # type: ignore[arg-type]

        host._engine.generate = write_wrongly  # type: ignore[method-assign]
        outcomes = {outcome.index: outcome for outcome in await answers_of(host, 6)}
        failed = outcomes.pop(3)
        assert (failed.status, failed.reason) == (OutcomeStatus.FAILED, FailureReason.ERROR.value)
        assert failed.detail.startswith("its answer cannot be stored: ")
        assert {outcome.status for outcome in outcomes.values()} == {OutcomeStatus.ACCEPTED}

    run(scenario)


def test_a_message_that_no_file_can_hold_costs_one_request() -> None:
    async def scenario() -> None:
        host = make_writer()
        await host.start()

        async def refuse(request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
            raise RequestRefusedError("the server says \ud83d")

        host._engine.generate = refuse  # type: ignore[method-assign]
        (outcome,) = await answers_of(host, 1)
        assert (outcome.status, outcome.detail) == (OutcomeStatus.FAILED, "the server says \ufffd")

    run(scenario)


def test_what_was_cut_is_written_once_more_with_a_larger_limit() -> None:
    async def answers(retry_max_tokens: int | None) -> list[Outcome]:
        host = make_writer(max_tokens=12, retry_max_tokens=retry_max_tokens)
        await host.start()
        outcomes = outcomes_of(await host.exchange(1, requests(30)))
        return outcomes + await collect(host, 30 - len(outcomes))

    async def scenario() -> None:
        once = await answers(12)
        twice = await answers(None)
        cut = {outcome.index for outcome in once if outcome.reason == RejectionReason.TRUNCATED.value}
        assert cut, "some of the fake engine's texts are longer than 12 words"
        by_index = {outcome.index: outcome for outcome in twice}
        assert all(by_index[index].reason != RejectionReason.TRUNCATED.value for index in cut)
        assert all(by_index[index].num_output_tokens > 24 for index in cut), "both tries are paid for"
        assert len(twice) == 30

    run(scenario)


def test_no_second_try_means_none_for_a_request_with_a_limit_of_its_own_either() -> None:
    async def scenario() -> None:
        host = make_writer(max_tokens=12, retry_max_tokens=12)
        await host.start()
        asked = pack([(make_request(index)._replace(max_tokens=5), 1) for index in range(10)])
        outcomes = outcomes_of(await host.exchange(1, asked))
        outcomes += await collect(host, 10 - len(outcomes))
        assert {outcome.num_output_tokens for outcome in outcomes} == {5}

    run(scenario)


def test_what_another_engine_answered_first_is_given_up() -> None:
    async def scenario() -> None:
        host = make_writer(tokens_per_s=0.001)
        await host.start()
        await asyncio.wait_for(host.exchange(1, requests(3)), 10)
        answer = await host.exchange(1, NOTHING, [0, 2])
        assert answer.num_running == 1
        answer = await host.exchange(1, NOTHING, [0, 1])
        assert (answer.num_running, answer.table.num_rows) == (0, 0)

    run(scenario)


def test_an_engine_says_how_it_is() -> None:
    async def scenario() -> None:
        host = make_writer(tokens_per_s=400.0)
        await host.start()
        stats = (await host.exchange(1, requests(40))).stats
        assert stats.num_output_tokens >= 6
        assert stats.busy_s > 0

    run(scenario)
