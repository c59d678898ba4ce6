"""The endpoint engine against a real HTTP server that refuses, fails, stalls, lies and echoes keys."""

import asyncio
import logging
import pickle
import random
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web

from s3ray.config.job import EndpointConfig, GeneratorConfig, SamplingConfig
from s3ray.errors import EngineDeadError, InputError, RequestRefusedError
from s3ray.generator.engines import openai as openai_module
from s3ray.generator.engines import rate_limit as congestion_module
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.openai import OpenAIEngine
from s3ray.generator.engines.trouble import read_retry_after
from s3ray.redaction import scrub
from s3ray.types import Generation, Prompt
from tests.endpoints import Answer, Endpoint, complete, refuse, tell

KEY = "sk-proj-4fTq81-ZZtop_0123456789abcdefGHIJ"
TEXT = Prompt(text="Once upon a time")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(openai_module, "_BACK_OFF_S", 0.01)


def make_engine(
    *endpoints: EndpointConfig, number: int = 0, form: str = "completion", seqs: int = 64, thinking: str = "auto"
) -> OpenAIEngine:
    config = GeneratorConfig.model_validate(
        {"engine": "openai", "model": "writer", "prompt_form": form, "max_num_seqs": seqs, "thinking": thinking}
        | {"endpoints": list(endpoints), "sampling": SamplingConfig(temperature=0.5, top_p=0.8)}
    )
    return OpenAIEngine(EngineSpec(engine="engine-0", config=config, device="cpu", number=number))


async def started(endpoint: Endpoint, **settings: Any) -> OpenAIEngine:
    engine = make_engine(EndpointConfig(url=endpoint.url), **settings)
    await engine.start()
    return engine


async def ask(engine: OpenAIEngine, index: int = 0, prompt: Prompt = TEXT, max_tokens: int = 16) -> Generation:
    return await engine.generate(f"request-{index}", prompt, seed=index, max_tokens=max_tokens)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_chat_and_completions_carry_what_the_job_says() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            engine = await started(endpoint, form="chat")
            told = await ask(engine, 5, Prompt(user="Tell!", system="Be brief.", stop=("\n", "##")))
            asked = endpoint.bodies[-1]
            assert [message["content"] for message in asked["messages"]] == ["Be brief.", "Tell!"]
            assert (asked["model"], asked["seed"], asked["max_tokens"]) == ("writer", 5, 16)
            assert (asked["temperature"], asked["top_p"], asked["stop"]) == (0.5, 0.8, ["\n", "##"])
            assert (told.request_id, told.text, told.finish_reason) == ("request-5", "word word word", "stop")
            assert (told.num_prompt_tokens, told.num_cached_tokens, told.num_output_tokens) == (7, 4, 3)
            await engine.close()

            engine = await started(endpoint)
            told = await ask(engine, max_tokens=2)
            assert endpoint.bodies[-1]["prompt"] == "Once upon a time"
            assert "stop" not in endpoint.bodies[-1]
            assert (told.text, told.finish_reason) == ("word word", "length")
            stats = engine.stats()
            assert (stats.num_prompt_tokens, stats.num_cached_tokens, stats.num_output_tokens) == (7, 4, 2)
            assert (stats.num_running, stats.num_waiting) == (0, 0)
            await engine.close()

    run(scenario)


def test_a_full_stop_at_which_the_server_stopped_stays() -> None:
    async def stop(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.json_response(complete(body, "stop", stop_reason='. "'))

    async def scenario() -> None:
        async with Endpoint(script=stop) as endpoint:
            assert (await ask(await started(endpoint))).text == "word word word."

    run(scenario)


@pytest.mark.parametrize("form", ["chat", "completion"])
def test_choices_are_weighed_by_the_likeliest_first_tokens(form: str) -> None:
    prompt = {"user": "Yes or no?"} if form == "chat" else {"text": 'Yes or no? "'}

    async def scenario() -> None:
        async with Endpoint() as endpoint:
            engine = await started(endpoint, form=form)
            choice = await engine.choose("request-1?", Prompt(**prompt, choices=("no", "yes")))  # type: ignore[arg-type]
            assert choice.probabilities == pytest.approx((0.25, 0.75)), "of 0.2 and 0.6"
            asked = endpoint.bodies[-1]
            assert (asked["max_tokens"], asked["temperature"], asked["top_p"]) == (1, 1.0, 1.0)
            assert (asked["logprobs"], asked.get("top_logprobs")) == ((True, 20) if form == "chat" else (5, None))
            assert engine.stats().num_output_tokens == choice.num_output_tokens == 1
            unknown = await engine.choose("request-2?", Prompt(**prompt, choices=("up", "down")))  # type: ignore[arg-type]
            assert unknown.probabilities == ()
            await engine.close()

    run(scenario)


@pytest.mark.parametrize("told", [None, {"content": None}, {"content": [{"token": "a", "logprob": 0.0}]}])
def test_a_server_that_tells_no_probabilities_is_refused(told: Any) -> None:
    async def tell_nothing(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.json_response(complete(body, logprobs=told))

    async def scenario() -> None:
        async with Endpoint(script=tell_nothing) as endpoint:
            engine = await started(endpoint, form="chat")
            with pytest.raises(RequestRefusedError, match="logprobs"):
                await engine.choose("request-1?", Prompt(user="Yes or no?", choices=("no", "yes")))

    run(scenario)


def test_a_server_whose_model_thinks_first_is_refused_when_it_is_asked_for_labels() -> None:
    async def think(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.json_response(complete(body, logprobs=tell(True, {"<think>": 0.99, "yes": 0.01})))

    async def scenario() -> None:
        async with Endpoint(script=think) as endpoint:
            engine = await started(endpoint, form="chat")
            with pytest.raises(RequestRefusedError, match=r"thinks aloud .* generator\.thinking: off"):
                await engine.choose("request-1?", Prompt(user="Yes or no?", choices=("no", "yes")))

    run(scenario)


def test_a_server_is_told_not_to_let_its_model_think() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            await ask(await started(endpoint, form="chat"), prompt=Prompt(user="Tell!"))
            assert all("chat_template_kwargs" not in body for body in endpoint.bodies)
            await ask(await started(endpoint, form="chat", thinking="off"), prompt=Prompt(user="Tell!"))
            assert [body["chat_template_kwargs"]["enable_thinking"] for body in endpoint.bodies[2:]] == [False] * 2

    run(scenario)


def test_a_question_is_asked_again_while_the_server_is_busy() -> None:
    fates = iter([None, refuse(429), refuse(503)])

    async def stumble(request: web.Request, body: dict[str, Any]) -> Answer:
        return next(fates, None) or web.json_response(complete(body, logprobs=tell(False, {"yes": 0.9, "no": 0.1})))

    async def scenario() -> None:
        async with Endpoint(script=stumble) as endpoint:
            engine = await started(endpoint)
            choice = await engine.choose("request-1?", Prompt(text="Yes or no?", choices=("yes", "no")))
            assert choice.probabilities == pytest.approx((0.9, 0.1))

    run(scenario)


def test_engines_take_the_endpoints_in_turn_each_with_its_own_key_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "other-secret-key")
    monkeypatch.delenv("OPENAI_API_KEY")

    async def scenario() -> None:
        async with Endpoint() as one, Endpoint() as two:
            endpoints = (
                EndpointConfig(url=one.url),
                EndpointConfig(url=two.url, model="scribe", key_env="OTHER_KEY"),
            )
            for number in range(5):
                await make_engine(*endpoints, number=number).start()
            assert (len(one.bodies), len(two.bodies)) == (3, 2)
            assert {body["model"] for body in two.bodies} == {"scribe"}
            assert two.headers[0]["Authorization"] == "Bearer other-secret-key"
            assert one.headers[0]["Authorization"] == "Bearer none", "a server without keys gets a dummy"

    run(scenario)


def test_a_server_that_fails_in_every_way_costs_no_request() -> None:
    luck = random.Random(0)

    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        fate = luck.random() if body["seed"] else 1.0
        if fate < 0.06:
            return refuse(500)
        if fate < 0.12:
            return refuse(429, Retry_After="0.02")
        if fate < 0.18:  # gone without a word
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fate < 0.24:  # cut off in the middle
            cut = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "500"})
            await cut.prepare(request)
            await cut.write(b'{"choices": [{"text": "wo')
            cut.force_close()
            return cut
        if fate < 0.3:
            return web.Response(text='{"choices": [', content_type="application/json")
        return web.json_response({"error": {"message": "later"}}) if fate < 0.36 else None

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            engine = await started(endpoint)
            told = await asyncio.gather(*(ask(engine, index) for index in range(1, 151)))
            assert [generation.request_id for generation in told] == [f"request-{index}" for index in range(1, 151)]
            assert {generation.text for generation in told} == {"word word word"}
            assert len(endpoint.bodies) > 200, "the failures have happened"
            assert engine.stats().num_output_tokens == 450
            assert (engine.stats().num_running, engine.stats().num_waiting) == (0, 0)
            await engine.close()

    run(scenario)


def test_concurrency_falls_when_the_server_has_too_much_and_rises_when_it_has_room() -> None:
    capacity = 6

    async def bear(request: web.Request, body: dict[str, Any]) -> Answer:
        if endpoint.num_running > capacity:
            return refuse(429)
        await asyncio.sleep(0.01)
        return None

    endpoint = Endpoint(script=bear)

    async def scenario() -> None:
        nonlocal capacity
        async with endpoint:
            engine = await started(endpoint)
            await asyncio.gather(*(ask(engine, index) for index in range(200)))
            few = engine.stats().capacity
            assert few is not None
            assert few <= 2 * capacity
            num_refused = len(endpoint.bodies) - 201
            assert 0 < num_refused < 100, "a limit that is found is kept to"
            capacity, endpoint.peak = 1000, 0
            await asyncio.gather(*(ask(engine, index) for index in range(500)))
            many = engine.stats().capacity
            assert many is not None
            assert many > 2 * few
            assert endpoint.peak <= 64, "never more than max_num_seqs"
            await engine.close()

    run(scenario)


def test_requests_beyond_the_limit_wait_here() -> None:
    go = asyncio.Event()

    async def stall(request: web.Request, body: dict[str, Any]) -> Answer:
        if body["seed"]:
            await go.wait()
        return None

    async def scenario() -> None:
        async with Endpoint(script=stall) as endpoint:
            engine = await started(endpoint, seqs=4)
            asked = [asyncio.create_task(ask(engine, index)) for index in range(1, 11)]
            while endpoint.num_running < 4:
                await asyncio.sleep(0.01)
            assert (engine.stats().num_running, engine.stats().num_waiting) == (4, 6)
            for task in asked[:6]:  # under way and waiting ones
                task.cancel()
            while endpoint.num_running > 4 or len(endpoint.bodies) < 9:
                await asyncio.sleep(0.01)
            assert (engine.stats().num_running, engine.stats().num_waiting) == (4, 0)
            go.set()
            assert len(await asyncio.gather(*asked[6:])) == 4
            await engine.close()

    run(scenario)


def test_what_waited_for_a_place_heeds_the_pause_too() -> None:
    refused: list[float] = []

    async def pause(request: web.Request, body: dict[str, Any]) -> Answer:
        if body["seed"] and not refused:
            refused.append(asyncio.get_running_loop().time())
            return refuse(429, Retry_After="0.4")
        return None

    async def scenario() -> None:
        async with Endpoint(script=pause) as endpoint:
            engine = await started(endpoint, seqs=1)
            await asyncio.gather(*(ask(engine, index) for index in range(1, 5)))
            later = [time for time in endpoint.times if time > refused[0]]
            assert len(later) == 4
            assert min(later) - refused[0] >= 0.39
            await engine.close()

    run(scenario)


@pytest.mark.parametrize("status", [429, 503])
def test_nothing_is_asked_before_the_server_wants_it(status: int) -> None:
    refused: list[float] = []

    async def pause(request: web.Request, body: dict[str, Any]) -> Answer:
        if body["seed"] == 1 and not refused:
            refused.append(asyncio.get_running_loop().time())
            return refuse(status, Retry_After="0.4")
        return None

    async def scenario() -> None:
        async with Endpoint(script=pause) as endpoint:
            engine = await started(endpoint)
            first = asyncio.create_task(ask(engine, 1))
            while not engine.stats().num_waiting:  # it has been refused and waits
                await asyncio.sleep(0.01)
            await asyncio.gather(first, *(ask(engine, index) for index in range(2, 9)))
            assert engine.stats().num_replies == 1 + 9
            later = [time for time in endpoint.times if time > refused[0]]
            assert len(later) == 8
            assert min(later) - refused[0] >= 0.39
            await engine.close()

    run(scenario)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_server_refuses_for_good_is_asked_once(status: int) -> None:
    async def choose(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(status, "maximum context length is 512") if body["seed"] == 3 else None

    async def scenario() -> None:
        async with Endpoint(script=choose) as endpoint:
            engine = await started(endpoint)
            with pytest.raises(RequestRefusedError, match=f"{status}: .*maximum context length"):
                await ask(engine, 3)
            assert len(endpoint.bodies) == 2
            assert (await ask(engine, 4)).text
            await engine.close()

    run(scenario)


def test_an_answer_that_was_censored_is_refused() -> None:
    async def censor(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.json_response(complete(body, "content_filter")) if body["seed"] else None

    async def scenario() -> None:
        async with Endpoint(script=censor) as endpoint:
            with pytest.raises(RequestRefusedError, match="content_filter"):
                await ask(await started(endpoint), 1)

    run(scenario)


@pytest.mark.parametrize(
    ("status", "says", "num_asked"),
    [
        (401, "OPENAI_API_KEY", 1),
        (403, "OPENAI_API_KEY", 1),
        (404, "It serves: writer", 1),
        (400, "refuses what is asked", 5),  # in every other way too: seed, max_tokens, top_p, temperature
    ],
)
def test_what_is_wrong_with_an_endpoint_is_said_at_the_start(status: int, says: str, num_asked: int) -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(status, "go away")

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            with pytest.raises(InputError, match=says) as refusal:
                await started(endpoint)
            assert refusal.value.field.startswith("generator.endpoints.0")
            assert refusal.value.value == endpoint.url
            assert len(endpoint.bodies) == num_asked

    run(scenario)


def test_a_message_that_no_file_can_hold_is_told_with_what_can_be_held_of_it() -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(400, "go \ud83d away")

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            with pytest.raises(InputError, match="go \ufffd away"):
                await started(endpoint)

    run(scenario)


def test_a_server_that_wants_no_thinking_is_told_with_the_way_out() -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        wants = "parameter.enable_thinking must be set to false for non-streaming calls"
        return refuse(400, wants) if body.get("enable_thinking", True) else None

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            with pytest.raises(InputError, match=r"must be set to false[^\n]*\n.*extra_body: {enable_thinking: false}"):
                await started(endpoint)
            await make_engine(EndpointConfig(url=endpoint.url, extra_body={"enable_thinking": False})).start()

    run(scenario)


def test_a_model_that_is_unknown_is_told_by_the_servers_words_too() -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(400, "Model not exist: writer")

    async def scenario() -> None:
        async with Endpoint(script=fail, models=("reader",)) as endpoint:
            with pytest.raises(InputError, match=r"does not know model writer[^\n]*\n[^\n]*It serves: reader"):
                await started(endpoint)

    run(scenario)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda: refuse(500, "CUDA out of memory"), "cannot be asked .HTTP 500: CUDA out of memory"),
        (
            lambda: web.Response(text='{"choices": [', content_type="application/json"),
            "cannot be asked .JSONDecodeError",
        ),
        (lambda: refuse(403, "Your country is not supported"), "forbids it .HTTP 403: Your country"),
    ],
    ids=["error", "no JSON", "forbidden"],
)
def test_a_server_that_fails_from_the_beginning_is_told_within_seconds(
    broken: Callable[[], web.Response], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_module, "_FIRST_CONTACT_S", 0.05)

    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return broken()

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            with pytest.raises(InputError, match=says):
                await started(endpoint)

    run(scenario)


@pytest.mark.parametrize("secret", ["two\nlines-of-a-secret", "sk-schlüssel-geheim"])
def test_a_key_that_no_header_can_carry_is_not_shown_either(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", secret)

    async def scenario() -> None:
        with pytest.raises(InputError, match="OPENAI_API_KEY holds") as refusal:
            await make_engine(EndpointConfig(url="http://127.0.0.1:9/v1")).start()
        assert "geheim" not in str(refusal.value)
        assert "secret" not in str(refusal.value)

    run(scenario)


def test_an_endpoint_that_stays_away_is_dead_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_module, "_UNREACHABLE_S", 0.3)

    async def scenario() -> None:
        endpoint = Endpoint()
        async with endpoint:
            engine = await started(endpoint)
            assert (await ask(engine)).text
        outcomes = await asyncio.gather(*(ask(engine, index) for index in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {EngineDeadError}
        assert endpoint.url in str(outcomes[0])
        with pytest.raises(EngineDeadError, match="has failed for"):
            await engine.check()
        with pytest.raises(EngineDeadError, match=r"has failed for.*[Cc]onnect"):
            await make_engine(EndpointConfig(url=endpoint.url)).start()

    run(scenario)


def in_a_success(code: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}})


WITHOUT_CREDIT = {
    "quota": lambda: refuse(429, "You exceeded your current quota", "insufficient_quota"),
    "payment required": lambda: refuse(402, "Payment required"),
    "balance": lambda: refuse(400, "Your credit balance is too low to access this interface"),
    "forbidden": lambda: refuse(403, "Your team has either used all available credits or reached its spending limit"),
    "in a success": lambda: in_a_success(402, "Insufficient credits"),
    "other words": lambda: web.json_response(
        {"error": {"message": "no", "type": "exceeded_current_quota_error"}}, status=429
    ),
}
"""How providers say that a key has no credit."""


@pytest.mark.parametrize("say", WITHOUT_CREDIT.values(), ids=WITHOUT_CREDIT)
@pytest.mark.parametrize("is_late", [False, True], ids=["at the start", "on the way"])
def test_a_key_without_credit_is_told_at_once(
    say: Callable[[], web.Response], is_late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_module, "_FIRST_CONTACT_S", 0.05)

    async def refuse_all(request: web.Request, body: dict[str, Any]) -> Answer:
        return say() if body["seed"] or not is_late else None

    async def scenario() -> None:
        async with Endpoint(script=refuse_all) as endpoint:
            with pytest.raises(InputError, match=r"credit of the key is used up \(HTTP 4\d\d: ") as refusal:
                await ask(await started(endpoint), 1)
            assert refusal.value.field == "generator.endpoints.0.key_env"
            assert len(endpoint.bodies) == 1 or is_late

    run(scenario)


def test_a_quota_per_minute_is_waited_for_in_whatever_words() -> None:
    words = "You exceeded your current quota, please check your plan and billing details."

    async def wait(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(429, words) if len(endpoint.bodies) < 5 else None

    endpoint = Endpoint(script=wait)

    async def scenario() -> None:
        async with endpoint:
            assert (await ask(await started(endpoint), 1)).text

    run(scenario)


@pytest.mark.parametrize("is_late", [False, True], ids=["at the start", "on the way"])
def test_a_wait_longer_than_a_request_may_take_ends_the_engine_in_the_servers_words(is_late: bool) -> None:
    async def wait(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(429, "tokens per day", Retry_After="86400") if body["seed"] or not is_late else None

    async def begin(url: str) -> None:
        engine = make_engine(EndpointConfig(url=url))
        await engine.start()
        asked = asyncio.ensure_future(ask(engine, 1))
        await asyncio.wait([asked], timeout=0.2)
        asked.cancel()
        await engine.check()

    async def scenario() -> None:
        async with Endpoint(script=wait) as endpoint:
            with pytest.raises(InputError, match=r"no request for 86400 s \(HTTP 429: tokens per day"):
                await begin(endpoint.url)

    run(scenario)


def test_an_error_inside_a_success_is_taken_for_what_it_says() -> None:
    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return in_a_success(400, "the text is too long") if body["seed"] == 1 else None

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            engine = await started(endpoint)
            with pytest.raises(RequestRefusedError, match="HTTP 400: the text is too long"):
                await ask(engine, 1)
            assert (await ask(engine, 2)).text

    run(scenario)


def test_a_trial_text_that_the_servers_policy_forbids_says_nothing_of_other_texts() -> None:
    async def forbid(request: web.Request, body: dict[str, Any]) -> Answer:
        return None if body["seed"] else refuse(400, "filtered: content management policy", "content_filter")

    async def scenario() -> None:
        async with Endpoint(script=forbid) as endpoint:
            engine = await started(endpoint)
            assert (await ask(engine, 1)).text

    run(scenario)


@pytest.mark.parametrize(("status", "code"), [(503, None), (401, "revoked")])
def test_a_server_that_answers_nobody_any_more_is_dead_too(
    status: int, code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_module, "_UNREACHABLE_S", 0.3)

    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(status, "over", code) if body["seed"] else None

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            engine = await started(endpoint)
            with pytest.raises(EngineDeadError, match=f"{status}: .*over"):
                await ask(engine, 1)

    run(scenario)


def test_a_server_that_is_only_busy_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_module, "_UNREACHABLE_S", 0.1)

    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(429) if body["seed"] and len(endpoint.bodies) < 7 else None

    endpoint = Endpoint(script=fail)

    async def scenario() -> None:
        async with endpoint:
            engine = await started(endpoint)
            assert (await ask(engine, 1)).text
            assert endpoint.times[-1] - endpoint.times[0] > 0.1

    run(scenario)


def test_failures_of_long_ago_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_module, "_UNREACHABLE_S", 0.2)
    failing = {2, 3}  # the probe is the first

    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(503) if len(endpoint.bodies) in failing else None

    endpoint = Endpoint(script=fail)

    async def scenario() -> None:
        async with endpoint:
            engine = await started(endpoint)
            monkeypatch.setattr(openai_module, "_BACK_OFF_S", 60.0)
            given_up = asyncio.create_task(ask(engine, 1))
            while not engine.stats().num_waiting:
                await asyncio.sleep(0.01)
            given_up.cancel()
            await asyncio.wait([given_up])
            await asyncio.sleep(0.25)
            monkeypatch.setattr(openai_module, "_BACK_OFF_S", 0.01)
            assert (await ask(engine, 2)).text
            assert len(endpoint.bodies) == 4

    run(scenario)


def test_only_failures_in_a_row_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_module, "_UNREACHABLE_S", 0.2)
    monkeypatch.setattr(openai_module, "_BACK_OFF_S", 0.15)
    monkeypatch.setattr(congestion_module, "_START", 64)  # the request that stays open must not take the last place
    answers = iter([200, 503, 200, 503, 429, 503, 200])  # for the probe, for request 1, for request 2
    go = asyncio.Event()

    async def fail(request: web.Request, body: dict[str, Any]) -> Answer:
        if body["seed"] == 99:
            await go.wait()
            return None
        status = next(answers)
        return None if status == 200 else refuse(status)

    async def scenario() -> None:
        async with Endpoint(script=fail) as endpoint:
            engine = await started(endpoint)
            open_all_the_while = asyncio.create_task(ask(engine, 99))
            assert (await ask(engine, 1)).text
            await asyncio.sleep(0.25)
            assert (await ask(engine, 2)).text
            go.set()
            assert (await open_all_the_while).text

    run(scenario)


def hidden_in(error: BaseException) -> list[str]:
    """All that an error may show: its text, its pickle, and what a log prints with its causes."""
    chain = "".join(traceback.format_exception(error))
    context = "".join(repr(other) for other in (error.__cause__, error.__context__))
    return [str(error), repr(error), chain, context, repr(pickle.dumps(error))]


@pytest.mark.parametrize("status", [400, 401, 404, 503])
@pytest.mark.parametrize("at_start", [True, False])
def test_a_server_that_echoes_the_key_reveals_it_to_nobody(
    status: int, at_start: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(openai_module, "_UNREACHABLE_S", 0.05)

    async def echo(request: web.Request, body: dict[str, Any]) -> Answer:
        given = request.headers["Authorization"]
        if not at_start and not body["seed"]:
            return None
        return refuse(status, f"bad header {given}, cut: {given[:30]}, tail: {given[-12:]}", given)

    async def scenario() -> None:
        async with Endpoint(script=echo) as endpoint:
            engine = make_engine(EndpointConfig(url=endpoint.url))
            if not at_start:
                await engine.start()
            with pytest.raises((InputError, EngineDeadError, RequestRefusedError)) as failure:
                await (engine.start() if at_start else ask(engine, 1))
            assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"
            assert "bad header Bearer ***" in str(failure.value), "what the server says is worth reading"
            shown = [*hidden_in(failure.value), repr(engine.stats()), caplog.text]
            for start in range(len(KEY) - 7):
                assert all(KEY[start : start + 8] not in text for text in shown)

    with caplog.at_level(logging.DEBUG):
        run(scenario)


@pytest.mark.parametrize(
    ("text", "secret", "left"),
    [
        ("key 0123456789 in it", "0123456789", "key *** in it"),
        ("0123456789", "0123456789", "***"),
        ("half: 23456789!", "0123456789", "half: ***!"),
        ("too little: 3456789", "0123456789", "too little: 3456789"),
        ("short pw here", "pw", "short *** here"),
        ("nothing to hide", "", "nothing to hide"),
        ("", "0123456789", ""),
    ],
)
def test_scrub(text: str, secret: str, left: str) -> None:
    assert scrub(text, secret) == left


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("Wed, 21 Oct 2026 07:28:10 GMT", 10.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("-1", 0.0),
        ("inf", 0.0),
        ("soon", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after(header: str, seconds: float) -> None:
    assert read_retry_after(header, datetime(2026, 10, 21, 7, 28, tzinfo=UTC)) == seconds
