"""A server that speaks OpenAI's protocol and means harm."""

from typing import Any

import pytest
from aiohttp import web

from s3ray.errors import RequestRefusedError
from s3ray.types import Prompt
from tests.endpoints import Answer, Endpoint, complete
from tests.generator.engines.test_openai import KEY, ask, run, started


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_a_server_that_writes_the_key_into_its_answers_gets_it_into_no_dataset() -> None:
    async def echo(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.json_response(complete(body, text=f"A fine film. {request.headers['Authorization']} Indeed."))

    async def scenario() -> None:
        async with Endpoint(echo) as endpoint:
            engine = await started(endpoint)
            assert (await ask(engine)).text == "A fine film. Bearer *** Indeed."
            await engine.close()

    run(scenario)


def test_nor_does_the_reason_why_an_answer_ended() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            engine = await started(endpoint)

            async def echo(request: web.Request, body: dict[str, Any]) -> Answer:
                return web.json_response(complete(body, request.headers["Authorization"] * 1000))

            endpoint.script = echo
            told = await ask(engine)
            assert told.finish_reason == "stop", "what is no other end is an ordinary one"
            assert KEY not in repr(told)
            await engine.close()

    run(scenario)


def test_nor_does_the_refusal_that_a_model_sends_apart() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            engine = await started(endpoint, form="chat")

            async def echo(request: web.Request, body: dict[str, Any]) -> Answer:
                message = {"role": "assistant", "content": None, "refusal": request.headers["Authorization"] * 1000}
                return web.json_response(complete(body, "stop", message=message))

            endpoint.script = echo
            with pytest.raises(RequestRefusedError, match="declined") as refusal:
                await ask(engine, prompt=Prompt(user="Tell!"))
            assert KEY not in str(refusal.value)
            assert len(str(refusal.value)) < 500
            await engine.close()

    run(scenario)


@pytest.mark.parametrize("count", ["many", -1, 10**30, [1], {"a": 1}, 1.5])
def test_counts_that_are_none_break_no_sum(count: Any) -> None:
    async def lie(request: web.Request, body: dict[str, Any]) -> Answer:
        usage = {"prompt_tokens": count, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
        return web.json_response(complete(body) | {"usage": usage})

    async def scenario() -> None:
        async with Endpoint(lie) as endpoint:
            engine = await started(endpoint)
            told = await ask(engine)
            assert (told.num_prompt_tokens, told.num_cached_tokens, told.num_output_tokens) == (0, 0, 0)
            await engine.close()

    run(scenario)
