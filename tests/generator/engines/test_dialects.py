"""Servers that speak OpenAI's protocol a little differently: what they refuse is found at the start, and said."""

import asyncio
import socket
import ssl
import time
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from s3ray.config.endpoint import read_address
from s3ray.config.job import EndpointConfig, GeneratorConfig
from s3ray.curation.answer import read_answer
from s3ray.errors import InputError, RequestRefusedError
from s3ray.generator.engines import openai as openai_module
from s3ray.generator.engines import trouble
from s3ray.generator.engines.base import EngineSpec
from s3ray.generator.engines.openai import OpenAIEngine
from s3ray.generator.worker import ServedTask, trial_prompts
from s3ray.tasks import load_task
from s3ray.types import Generation, Prompt
from tests.endpoints import Answer, Endpoint, Script, complete, refuse, tell
from tests.generator.engines.test_openai import KEY, run

CHAT = Prompt(user="Tell!", system="Be brief.")
STOPS = Prompt(text="Once", stop=("a", "b", "c", "d", "e"))
QUESTION = Prompt(user="Yes or no?", system="Be brief.", choices=("yes", "no"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(openai_module, "_BACK_OFF_S", 0.01)
    monkeypatch.setattr(openai_module, "_FIRST_CONTACT_S", 0.05)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


SAMPLING = {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25}


def make(url: str, *trials: Prompt, sampling: dict[str, float] | None = None, **endpoint: Any) -> OpenAIEngine:
    form = "completion" if trials and trials[0].text else "chat"
    config = GeneratorConfig.model_validate(
        {"engine": "openai", "model": "writer", "prompt_form": form, "max_num_seqs": 8, "sampling": sampling or {}}
        | {"endpoints": [EndpointConfig.model_validate({"url": url} | endpoint)]}
    )
    return OpenAIEngine(EngineSpec(engine="engine-0", config=config, device="cpu", trials=trials))


def refusing(*names: str, status: int = 400, words: str = "", foreign: bool = False) -> Script:
    """A server that takes no body with one of these parameters; by default its words name the one that it found."""

    async def script(request: web.Request, body: dict[str, Any]) -> Answer:
        for name in names:
            if name in body or (name == "system" and body["messages"][0]["role"] == "system"):
                said = words or f"Unsupported value: '{name}' is not known here."
                if foreign:
                    detail = [{"loc": ["body", name], "msg": said}]
                    return web.json_response({"object": "error", "message": {"detail": detail}}, status=status)
                return refuse(status, said)
        return None

    return script


async def few_stops(request: web.Request, body: dict[str, Any]) -> Answer:
    if len(body.get("stop", ())) > 4:
        return refuse(400, "Array too long: expected an array with maximum length 4 (param stop)")
    return None


async def few_likeliest(request: web.Request, body: dict[str, Any]) -> Answer:
    return refuse(400, "top_logprobs must be at most 5") if body.get("top_logprobs", 0) > 5 else None


async def one_randomness(request: web.Request, body: dict[str, Any]) -> Answer:
    both = {"temperature", "top_p"} <= set(body)
    return refuse(400, "`temperature` and `top_p` cannot both be specified for this model.") if both else None


SERVERS = {
    "no system role": (refusing("system", words="This model's template knows no system role"), CHAT, {"system"}),
    "no system role, 500": (refusing("system", status=500, words="System role not supported"), CHAT, {"system"}),
    "no system role, unsaid": (refusing("system", words="invalid request"), CHAT, {"system"}),
    "another limit": (refusing("max_tokens"), CHAT, {"max_tokens"}),
    "no seed, FastAPI": (refusing("seed", status=422, foreign=True), CHAT, {"seed"}),
    "no seed, unsaid": (refusing("seed", status=422, words="no"), CHAT, {"seed"}),
    "no such parameter, 404": (refusing("seed", status=404, words="no provider knows seed"), CHAT, {"seed"}),
    "one randomness": (one_randomness, CHAT, {"top_p"}),
    "reasoning model": (refusing("max_tokens", "temperature", "top_p"), CHAT, {"max_tokens", "temperature", "top_p"}),
    "reasoning model, unsaid": (
        refusing("max_tokens", "temperature", "system", words="bad request"),
        CHAT,
        {"max_tokens", "temperature", "system"},
    ),
    "few stops": (few_stops, STOPS, {"fewer_stops"}),
    "no stops": (refusing("stop"), STOPS, {"fewer_stops", "stop"}),
    "few likeliest tokens": (few_likeliest, QUESTION, {"top_logprobs"}),
}


@pytest.mark.parametrize("name", SERVERS)
def test_what_a_server_refuses_is_found_at_the_start_and_nothing_else_is_changed(name: str) -> None:
    script, prompt, changes = SERVERS[name]

    async def scenario() -> None:
        async with Endpoint(script) as endpoint:
            engine = make(endpoint.url, prompt)
            limits = await engine.start()
            found = set(engine._dialect.changes) - ({"fewer_stops"} if "stop" in engine._dialect.changes else set())
            assert found == changes - ({"fewer_stops"} if "stop" in changes else set())
            assert len(limits.notes) == len(engine._dialect.changes), "it is said"
            told = await engine.generate("request-1", replace(prompt, choices=()), seed=1, max_tokens=16)
            assert told.text.startswith("word"), "the job's own requests are sent likewise"
            asked = endpoint.bodies[-1]
            if "system" in changes:
                assert [each["content"] for each in asked["messages"]] == ["Be brief.\n\nTell!"]
            if "max_tokens" in changes:
                assert (asked["max_completion_tokens"], "max_tokens" in asked) == (16, False)
            kept = {"temperature", "top_p", "seed"} - changes
            assert kept <= set(asked)
            await engine.close()

    run(scenario)


@pytest.mark.parametrize("prompt", [CHAT, STOPS])
def test_sampling_settings_are_sent_if_they_are_on(prompt: Prompt) -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            for sampling in ({}, SAMPLING):
                engine = make(endpoint.url, prompt, sampling=sampling)
                assert not (await engine.start()).notes
                await engine.generate("request-1", prompt, seed=1, max_tokens=16)
                await engine.close()
                assert {name: value for name, value in endpoint.bodies[-1].items() if name in SAMPLING} == sampling

    run(scenario)


@pytest.mark.parametrize("unknown", [["top_k"], ["min_p", "repetition_penalty"], list(SAMPLING)])
@pytest.mark.parametrize("words", ["", "no"])
def test_sampling_settings_that_a_server_does_not_know_are_left_out_and_said(unknown: list[str], words: str) -> None:
    async def scenario() -> None:
        async with Endpoint(refusing(*unknown, words=words)) as endpoint:
            engine = make(endpoint.url, CHAT, sampling=SAMPLING)
            limits = await engine.start()
            assert sorted(limits.notes) == sorted(f"{name} is left out" for name in unknown)
            await engine.generate("request-1", CHAT, seed=1, max_tokens=16)
            assert set(SAMPLING) - set(endpoint.bodies[-1]) == set(unknown)
            await engine.close()

    run(scenario)


def test_sampling_settings_have_the_names_that_the_job_gives_them() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            names = {"repetition_penalty": "repeat_penalty", "min_p": None}
            engine = make(endpoint.url, CHAT, sampling=SAMPLING, parameters=names)
            await engine.start()
            asked = endpoint.bodies[-1]
            assert asked["repeat_penalty"] == 1.1
            assert not {"repetition_penalty", "min_p"} & set(asked)
            await engine.close()

    run(scenario)


def test_a_server_that_refuses_everything_is_refused_in_its_own_first_words() -> None:
    async def refuse_all(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.Response(status=400, text=f"first you must pay, request {len(endpoint.bodies)}")

    endpoint = Endpoint(refuse_all)

    async def scenario() -> None:
        async with endpoint:
            engine = make(endpoint.url, CHAT)
            with pytest.raises(InputError, match=r"HTTP 400: first you must pay, request 1\)") as refusal:
                await engine.start()
            assert "parameters" in refusal.value.hint
            await engine.close()

    run(scenario)


def test_a_job_says_itself_what_its_server_takes() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            names = {"max_tokens": "max_new_tokens", "seed": None, "temperature": None}
            extra = {"top_k": 40, "chat_template_kwargs": {"enable_thinking": False}}
            engine = make(endpoint.url, CHAT, parameters=names, extra_body=extra)
            assert (await engine.start()).notes == ()
            asked = endpoint.bodies[-1]
            assert (asked["max_new_tokens"], asked["top_k"]) == (256, 40)
            assert asked["chat_template_kwargs"] == {"enable_thinking": False}
            assert not {"max_tokens", "seed", "temperature"} & set(asked)
            await engine.close()

    run(scenario)


def test_the_trial_has_the_shapes_of_the_job_s_prompts() -> None:
    task = load_task("review_sentences")
    served = ServedTask(task=task, clean=True, verify=True)
    chat = trial_prompts([served, served], "chat")
    assert [bool(prompt.choices) for prompt in chat] == [False, True]
    assert chat[0].system
    completion = trial_prompts([ServedTask(task=task, clean=True)], "completion")
    assert all(prompt.stop and not prompt.choices for prompt in completion)
    assert len({prompt.stop for prompt in completion}) == len(completion)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "So."}], "So."),
        ([{"type": "output_text", "text": "So"}, {"type": "text", "text": "."}], "So."),
        (["So", "."], "So."),
        ({"type": "text", "text": "So."}, "So."),
        ([], ""),
        (7, ""),
    ],
)
def test_of_a_content_in_parts_the_text_is_the_answer(content: Any, text: str) -> None:
    async def in_parts(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.json_response(complete(body, "stop", message={"role": "assistant", "content": content}))

    async def scenario() -> None:
        async with Endpoint(in_parts) as endpoint:
            engine = make(endpoint.url, CHAT)
            await engine.start()
            assert (await engine.generate("request-1", CHAT, seed=1, max_tokens=16)).text == text
            await engine.close()

    run(scenario)


@pytest.mark.parametrize(
    ("reason", "ends"),
    [
        *[("eos", "stop"), ("STOP", "stop"), (None, "stop"), ("end_turn", "stop"), ("max_tokens", "length")],
        *[("MAX_TOKENS", "length"), ("SAFETY", ""), ("content_filter", ""), ("tool_calls", "")],
    ],
)
def test_servers_have_many_words_for_an_end(reason: str | None, ends: str) -> None:
    async def end(request: web.Request, body: dict[str, Any]) -> Answer:
        answer = complete(body, "stop")
        answer["choices"][0]["finish_reason"] = reason
        return web.json_response(answer)

    async def scenario() -> None:
        async with Endpoint(end) as endpoint:
            engine = make(endpoint.url, CHAT)
            await engine.start()
            if ends:
                assert (await engine.generate("request-1", CHAT, seed=1, max_tokens=16)).finish_reason == ends
            else:
                with pytest.raises(RequestRefusedError, match=str(reason)):
                    await engine.generate("request-1", CHAT, seed=1, max_tokens=16)
            await engine.close()

    run(scenario)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_thoughts_without_a_text_are_a_thought_that_never_ends(name: str, reason: str) -> None:
    async def think(request: web.Request, body: dict[str, Any]) -> Answer:
        message = {"role": "assistant", "content": None, name: "A lamp will do, or"}
        return web.json_response(complete(body, reason, message=message))

    async def scenario() -> None:
        async with Endpoint(think) as endpoint:
            engine = make(endpoint.url, CHAT)
            await engine.start()
            told = await engine.generate("request-1", CHAT, seed=1, max_tokens=16)
            assert (told.text, told.finish_reason) == ("<think>\nA lamp will do, or", reason)
            assert read_answer(told.text).is_cut, "so it is asked for again with more tokens"
            await engine.close()

    run(scenario)


def test_a_text_ends_at_a_stop_string_that_the_server_ignored() -> None:
    prompt = Prompt(text="Once", stop=('. "', "\n"))

    async def ignore(request: web.Request, body: dict[str, Any]) -> Answer:
        return web.json_response(complete(body, "length", text='The lamp." And\nmore. "x'))

    async def scenario() -> None:
        async with Endpoint(ignore) as endpoint:
            engine = make(endpoint.url, prompt)
            await engine.start()
            told = await engine.generate("request-1", prompt, seed=1, max_tokens=16)
            assert (told.text, told.finish_reason) == ('The lamp." And', "stop")
            await engine.close()

    run(scenario)


def test_what_is_refused_only_later_ends_the_engine_after_a_while_with_one_message() -> None:
    async def tire(request: web.Request, body: dict[str, Any]) -> Answer:
        return (
            refuse(400, f"request req_{len(endpoint.bodies)}: your plan has no more of these") if body["seed"] else None
        )

    endpoint = Endpoint(tire)

    async def scenario() -> None:
        async with endpoint:
            engine = make(endpoint.url, CHAT)
            await engine.start()
            asked = [engine.generate(f"request-{index}", CHAT, seed=index, max_tokens=16) for index in range(1, 97)]
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(each) for each in told} == {RequestRefusedError, InputError}
            with pytest.raises(InputError, match=r"refused 2[4-9] requests in a row .*your plan has no more"):
                await engine.check()
            assert len(endpoint.bodies) < 40
            await engine.close()

    run(scenario)


@pytest.mark.parametrize("code", ["content_filter", "context_length_exceeded", None])
def test_texts_that_are_refused_one_by_one_end_nothing(code: str | None) -> None:
    async def censor(request: web.Request, body: dict[str, Any]) -> Answer:
        is_refused = body["seed"] and (code or body["seed"] % 10)
        return refuse(400, "not this text", code) if is_refused else None

    async def scenario() -> None:
        async with Endpoint(censor) as endpoint:
            engine = make(endpoint.url, CHAT)
            await engine.start()
            asked = [engine.generate(f"request-{index}", CHAT, seed=index, max_tokens=16) for index in range(1, 60)]
            told = await asyncio.gather(*asked, return_exceptions=True)
            assert {type(each) for each in told} <= {RequestRefusedError, Generation}
            await engine.check()
            await engine.close()

    run(scenario)


async def sign_in(request: web.Request, body: dict[str, Any]) -> Answer:
    return web.Response(text="<html><title>Sign in to the guest network</title></html>", content_type="text/html")


async def stream(request: web.Request, body: dict[str, Any]) -> Answer:
    return web.Response(text='data: {"choices": []}\n\ndata: [DONE]\n\n', content_type="text/event-stream")


async def other_protocol(request: web.Request, body: dict[str, Any]) -> Answer:
    return web.json_response({"generated_text": "The lamp."})


async def wants_https(request: web.Request, body: dict[str, Any]) -> Answer:
    return web.Response(status=400, text="<html>The plain HTTP request was sent to HTTPS port</html>")


@pytest.mark.parametrize(
    ("script", "says", "advice"),
    [
        (sign_in, "Sign in to the guest network", "web page"),
        (stream, "DONE", "streams"),
        (other_protocol, "generated_text", "usually ends in /v1"),
        (wants_https, "plain HTTP request", "https://"),
    ],
)
def test_what_speaks_another_protocol_is_told_at_once(script: Script, says: str, advice: str) -> None:
    async def scenario() -> None:
        async with Endpoint(script) as endpoint:
            engine = make(endpoint.url, CHAT)
            with pytest.raises(InputError, match=says) as refusal:
                await engine.start()
            assert advice in refusal.value.hint
            assert len(endpoint.bodies) == 1
            await engine.close()

    run(scenario)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_an_address_at_which_nobody_listens_is_told_within_seconds() -> None:
    async def scenario() -> None:
        engine = make(f"http://127.0.0.1:{free_port()}/v1", CHAT)
        with pytest.raises(InputError, match=r"nobody answers there \(ConnectError") as refusal:
            await engine.start()
        assert refusal.value.field == "generator.endpoints.0.url"
        assert "Start the server first" in refusal.value.hint
        await engine.close()

    run(scenario)


def test_the_proxy_in_between_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:pa55word@127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario() -> None:
        engine = make("http://llm.example:8000/v1", CHAT)
        with pytest.raises(InputError, match=r"HTTP_PROXY names; NO_PROXY=llm\.example") as refusal:
            await engine.start()
        assert "pa55word" not in str(refusal.value)
        await engine.close()

    run(scenario)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED: self-signed certificate"), "SSL_CERT_FILE"),
        (ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED: certificate has expired"), "renewed"),
        (ssl.SSLCertVerificationError("CERTIFICATE_VERIFY_FAILED: Hostname mismatch"), "another name"),
        (ssl.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number"), "http://"),
    ],
)
def test_what_is_wrong_with_a_certificate_or_with_https_is_told_at_once(error: Exception, advice: str) -> None:
    failure = ConnectionError("Connection error.")
    failure.__cause__ = error
    found = trouble.of_connection(failure, "https://llm.example/v1")
    assert found.is_hopeless
    assert advice in found.advice
    assert str(error) in found.text


def test_a_plain_server_behind_https_is_told_at_once() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            engine = make(endpoint.url.replace("http:", "https:"), CHAT)
            with pytest.raises(InputError, match="does not speak https"):
                await engine.start()
            await engine.close()

    run(scenario)


def test_a_name_that_is_unknown_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = ConnectionError("Connection error.")
    failure.__cause__ = socket.gaierror(-2, "Name or service not known")
    found = trouble.of_connection(failure, "https://llm.exmaple/v1")
    assert found.is_away
    assert "does not know the name llm.exmaple" in found.advice


def test_a_server_that_answers_while_it_loads_is_waited_for() -> None:
    async def load(request: web.Request, body: dict[str, Any]) -> Answer:
        return refuse(503, "model is loading") if len(endpoint.bodies) < 5 else None

    endpoint = Endpoint(load)

    async def scenario() -> None:
        async with endpoint:
            engine = make(endpoint.url, CHAT)
            await engine.start()
            assert len(endpoint.bodies) == 5
            await engine.close()

    run(scenario)


def test_headers_and_query_are_filled_from_the_environment_and_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_PHRASE", "correct horse battery")

    async def echo(request: web.Request, body: dict[str, Any]) -> Answer:
        if body["seed"] == 2:
            return refuse(400, f"{request.headers['X-Pass']} {request.query['sig']} is no good")
        return web.json_response(complete(body, "stop", message={"content": f"So {request.headers['X-Pass']}."}))

    async def scenario() -> None:
        async with Endpoint(echo) as endpoint:
            engine = make(
                f"{endpoint.url}/chat/completions?api-version=2024-10-21",
                CHAT,
                headers={"X-Pass": "${GATEWAY_PHRASE}", "X-Title": "s3ray"},
                query={"sig": "${GATEWAY_PHRASE}"},
            )
            await engine.start()
            assert {name.lower(): value for name, value in endpoint.headers[0].items()}["x-title"] == "s3ray"
            assert (await engine.generate("request-1", CHAT, seed=1, max_tokens=16)).text == "So ***."
            with pytest.raises(RequestRefusedError, match=r"\*\*\* \*\*\* is no good"):
                await engine.generate("request-2", CHAT, seed=2, max_tokens=16)
            await engine.close()

    run(scenario)


def test_a_variable_that_is_not_set_is_named() -> None:
    async def scenario() -> None:
        engine = make("http://127.0.0.1:9/v1", CHAT, headers={"X-Api-Key": "${NO_SUCH_KEY}"})
        with pytest.raises(InputError, match="no NO_SUCH_KEY") as refusal:
            await engine.start()
        assert refusal.value.field == "generator.endpoints.0.headers.X-Api-Key"

    run(scenario)


def test_azure_gets_its_key_in_its_own_header_and_none_as_a_token() -> None:
    async def scenario() -> None:
        engine = make("https://me.openai.azure.com/openai/deployments/d/chat/completions?api-version=1", CHAT)
        engine._connect(read_address(engine._endpoint.url, ""))
        client = engine._client
        assert client is not None
        assert str(client.base_url) == "https://me.openai.azure.com/openai/deployments/d/"
        assert client.default_query == {"api-version": "1"}
        sent = client.default_headers
        assert sent["api-key"] == KEY
        assert not isinstance(sent["Authorization"], str)
        await engine.close()

    run(scenario)


def test_requests_keep_the_pace_that_the_job_sets() -> None:
    async def scenario() -> None:
        async with Endpoint() as endpoint:
            engine = make(endpoint.url, CHAT, requests_per_minute=1200)
            began = time.monotonic()
            await engine.start()
            await asyncio.gather(*(engine.generate(f"r{i}", CHAT, seed=i, max_tokens=16) for i in range(1, 7)))
            assert time.monotonic() - began >= 0.29, "seven requests, a twentieth of a second apart"
            await engine.close()

    run(scenario)


def test_the_likeliest_tokens_are_read_where_fewer_are_sent() -> None:
    async def few(request: web.Request, body: dict[str, Any]) -> Answer:
        if body.get("top_logprobs", 0) > 5:
            return refuse(400, "top_logprobs must be at most 5")
        return web.json_response(complete(body, logprobs=tell(True, {"yes": 0.9, "no": 0.1})))

    async def scenario() -> None:
        async with Endpoint(few) as endpoint:
            engine = make(endpoint.url, CHAT, QUESTION)
            await engine.start()
            assert (await engine.choose("request-1?", QUESTION)).probabilities == pytest.approx((0.9, 0.1))
            await engine.close()

    run(scenario)
