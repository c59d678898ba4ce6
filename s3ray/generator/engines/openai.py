"""Servers that speak OpenAI's protocol, through the official client; each engine of the pool talks to one of them.

The number of concurrent requests adapts to the server (``rate_limit``). A request that finds it busy is sent again
until the actor's limit for a request (``generator.request_s``) ends it. At the start prompts of the job's shapes are
tried out, and what the server does not take is left out or renamed (``dialect``). Secrets are read from the environment
of this process and leave it only in headers and query: they are removed from every text that comes from outside, and no
error has a cause that may hold one.
"""

import asyncio
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from operator import itemgetter
from typing import Any, TypeVar

import httpx2
import openai

from s3ray.config.endpoint import Address, fill, read_address, variables_in
from s3ray.config.job import EndpointConfig, GeneratorConfig
from s3ray.errors import EngineDeadError, InputError, RequestRefusedError
from s3ray.generator.engines import answers, trouble
from s3ray.generator.engines.base import Choice, EngineSpec, Timing, configured_limits, kept_of_stop
from s3ray.generator.engines.chat import NO_THINKING, opens_thought
from s3ray.generator.engines.dialect import Dialect, adapt
from s3ray.generator.engines.label_probabilities import likeliest_tokens, read_likeliest
from s3ray.generator.engines.rate_limit import Gate, Pace
from s3ray.generator.engines.trouble import Trouble
from s3ray.redaction import hide, scrub, treat_as_secrets
from s3ray.text import valid_text
from s3ray.types import EngineLimits, EngineStats, Generation, Prompt

_CONNECT_S = 10.0  # a server that is up accepts a connection within milliseconds, through a busy proxy within seconds
_FIRST_CONTACT_S = 7.0  # a mistyped address is told at once; a server that answers while it loads is waited for
_UNREACHABLE_S = 60.0  # a server that restarts or is deployed anew is usually back within a minute
_MOST_REFUSALS = 24  # in a row with the same words: it is not the texts that are refused
_BACK_OFF_S = 0.5
_LONGEST_BACK_OFF_S = 15.0  # a server that has recovered is noticed within seconds
_TRIAL_TOKENS = 16  # of a trial without a job, enough for a real answer, and cheap
_LIKELIEST_IN_CHAT, _LIKELIEST = 20, 5  # the most log probabilities that OpenAI's two interfaces send for a token
_LETTERS_PER_TOKEN = 4  # roughly, in English; only for the pace, and corrected by what the server counts
_LONGEST_TEXT = 300  # of a server's message, which may be a whole page of HTML
_NO_KEY = "none"  # the client refuses an empty one
_log = logging.getLogger(__name__)

Answer = TypeVar("Answer", Generation, Choice)
Reader = Callable[[Any], Answer | Trouble]


class OpenAIEngine:
    """One endpoint of the job; engines take the endpoints in turn, so that several may share one."""

    needs_devices = loads_model = False

    def __init__(self, spec: EngineSpec) -> None:
        config = spec.config
        self._config = config
        self._place = spec.number % len(config.endpoints)
        self._is_restart = spec.restarts > 0
        endpoint = config.endpoints[self._place]
        self._endpoint = endpoint
        self._model = endpoint.model or config.model
        self._trials = spec.trials or (_some_prompt(config),)
        self._trial_tokens = config.sampling.max_tokens if spec.trials else _TRIAL_TOKENS
        variables = variables_in([*endpoint.headers.values(), *endpoint.query.values()])
        treat_as_secrets(endpoint.key_env, *variables)
        self._key = os.environ.get(endpoint.key_env, "").strip()
        self._secrets = [text for name in variables if (text := os.environ.get(name, "").strip())]
        self._secrets += [self._key] * bool(self._key)
        num_sharing = len(range(self._place, max(config.engines, self._place + 1), len(config.endpoints)))
        limits = [limit and limit / num_sharing for limit in (endpoint.requests_per_minute, endpoint.tokens_per_minute)]
        self._gate = Gate(config.num_seqs, Pace(*limits))
        self._dialect = Dialect(
            names={str(name): other for name, other in endpoint.parameters.items()}, extra=_extra_body(config, endpoint)
        )
        self._client: openai.AsyncOpenAI | None = None
        self._num_open = 0
        self._failing_since: float | None = None
        self._refusals: list[Trouble] = []
        self._death = self._refusal_of_all = ""
        self._spent: Trouble | None = None
        self._num_prompt_tokens = self._num_cached_tokens = self._num_output_tokens = self._num_replies = 0

    @property
    def _field(self) -> str:
        return f"generator.endpoints.{self._place}"

    # -- start -----------------------------------------------------------------------------------------------------

    async def start(self) -> EngineLimits:
        """Ask the endpoint what the job will ask, and find out how it wants to be asked.

        Raises:
            InputError: the endpoint refuses the key, does not know the model, refuses the trial requests in every way,
                or nobody speaks OpenAI's protocol there.
            EngineDeadError: the endpoint cannot be reached.
        """
        self._connect(read_address(self._endpoint.url, f"{self._field}.url"))
        for prompt in self._trials:
            await self._try(prompt)
        notes = self._dialect.in_words()
        if notes:
            _log.warning("%s takes no other requests: %s", self._endpoint.url, "; ".join(notes))
        return configured_limits(self._config, dtype="unknown", device="endpoint", notes=notes)

    def _connect(self, address: Address) -> None:
        endpoint = self._endpoint
        if not all("!" <= letter <= "~" for letter in self._key):
            hint = "It must be one line of ASCII without spaces."
            problem = f"{endpoint.key_env} holds characters that no HTTP header can carry"
            raise InputError(problem, field=f"{self._field}.key_env", hint=hint)
        headers: dict[str, Any] = {
            name: fill(value, os.environ, f"{self._field}.headers.{name}") for name, value in endpoint.headers.items()
        }
        given = {name.lower() for name in headers}
        if address.is_azure and self._key and not given & {"api-key", "authorization"}:
            headers["api-key"] = self._key
        if "api-key" in {name.lower() for name in headers}:
            headers.setdefault("Authorization", openai.omit)  # Azure takes a key there for a token, and refuses it
        query = {name: fill(value, os.environ, f"{self._field}.query.{name}") for name, value in endpoint.query.items()}
        num = self._config.num_seqs
        connections = httpx2.Limits(max_connections=num, max_keepalive_connections=num)
        timeout = openai.Timeout(None, connect=_CONNECT_S)
        self._client = openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=address.base,
            default_headers=headers,
            default_query={**address.query, **query},
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(limits=connections, timeout=timeout),
        )

    async def _try(self, prompt: Prompt) -> None:
        """Ask one trial question, in another way if the server refuses the usual one."""
        settings = self._trial_settings(prompt)
        refusal = await self._settled(prompt, settings, self._dialect)
        if refusal is None:
            return

        async def ask(dialect: Dialect) -> str | None:
            again = await self._settled(prompt, settings, dialect)
            return None if again is None else again.text

        names_it = self._dialect.names_something(refusal.text)
        dialect = None
        if not refusal.is_excused and (names_it or refusal.status != HTTPStatus.NOT_FOUND):
            dialect = await adapt(self._dialect, refusal.text, prompt, settings, ask)
        if dialect is not None:
            self._dialect = dialect
        elif not prompt.choices:  # else the job's own trial of its verification says it (``Worker.try_out``)
            raise await self._refusal(refusal)

    def _trial_settings(self, prompt: Prompt) -> dict[str, Any]:
        return _choice_settings(prompt) if prompt.choices else self._sampling(0, self._trial_tokens)

    async def _settled(self, prompt: Prompt, settings: dict[str, Any], dialect: Dialect) -> Trouble | None:
        """Ask until the server answers (None) or refuses; what it says about the text itself counts as an answer."""
        began = time.monotonic()
        read = partial(self._read, "trial", prompt.stop)
        for attempt in itertools.count():
            answer = await self._ask(dialect.body(prompt, settings), read)
            if not isinstance(answer, Trouble) or (answer.is_final and (answer.is_filtered or not answer.status)):
                return None
            # Some servers answer 500 where a model's template fails, on a system message for instance.
            is_failed_template = answer.status == HTTPStatus.INTERNAL_SERVER_ERROR and dialect.names_system(answer.text)
            if is_failed_template or (answer.is_final and not answer.is_hopeless):
                return answer
            waited_s = time.monotonic() - began
            is_bad = answer.is_away or answer.is_faulty
            gives_up = is_bad and not self._is_restart and attempt and waited_s >= _FIRST_CONTACT_S
            is_ending = answer.is_hopeless or self._ends_run(answer) or answer.status in trouble.KEY_REFUSED
            if is_ending or gives_up:
                raise await self._refusal(answer)
            await self._wait(attempt)
        raise AssertionError("unreachable")

    # -- requests --------------------------------------------------------------------------------------------------

    async def generate(self, request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
        """Complete one prompt; asks again while the server is busy or away."""
        return await self._insist(
            prompt, self._sampling(seed, max_tokens), partial(self._read, request_id, prompt.stop)
        )

    async def choose(self, request_id: str, prompt: Prompt) -> Choice:
        """Read the choices' probabilities from the likeliest first tokens, which the server must send (``logprobs``).

        A choice that is not among them gets an upper bound (``label_probabilities.read_likeliest``).
        """
        return await self._insist(prompt, _choice_settings(prompt), partial(self._read_choice, prompt.choices))

    async def _insist(self, prompt: Prompt, settings: dict[str, Any], read: Reader[Answer]) -> Answer:
        if not self._num_open:
            self._failing_since = None  # nothing was asked for a while: earlier failures say nothing about now
        self._num_open += 1
        try:
            for attempt in itertools.count():
                await self.check()
                answer = await self._ask(self._dialect.body(prompt, settings), read)
                if not isinstance(answer, Trouble):
                    self._num_prompt_tokens += answer.num_prompt_tokens
                    self._num_cached_tokens += answer.num_cached_tokens
                    self._num_output_tokens += answer.num_output_tokens
                    return answer
                if answer.is_final:
                    self._count_refusal(answer)
                    raise RequestRefusedError(str(answer))
                await self._wait(attempt)
            raise AssertionError("unreachable")
        finally:
            self._num_open -= 1

    async def _wait(self, attempt: int) -> None:
        await self.check()
        # No random jitter is needed: the gate admits requests one by one, even if all of them wait equally long.
        await asyncio.sleep(min(_LONGEST_BACK_OFF_S, _BACK_OFF_S * 2.0 ** min(attempt, 10)))

    async def _ask(self, body: dict[str, Any], read: Reader[Answer]) -> Answer | Trouble:
        """Ask once, as soon as the gate admits it.

        Trouble is returned, not raised: an error raised here would refer to the client's error, which holds the key.
        """
        expected = _num_tokens(body)
        await self._gate.enter(expected)
        sent = time.monotonic()
        try:
            await self.check()  # much may have happened while this request waited
            answer = await self._attempt(body, read)
            self._note(answer, sent)
            if not isinstance(answer, Trouble) and answer.num_prompt_tokens:
                self._gate.correct(answer.num_prompt_tokens + answer.num_output_tokens - expected)
        finally:
            self._gate.leave()  # after the note, so that the next request is held back if the answer says so
        return answer

    async def _attempt(self, body: dict[str, Any], read: Reader[Answer]) -> Answer | Trouble:
        try:
            return read(await self._send(body))
        except openai.APIStatusError as error:
            found = trouble.of_status(error)
        except (openai.OpenAIError, ValueError) as error:
            # ValueError: a broken body.
            found = trouble.of_connection(error, self._endpoint.url)
        return replace(found, text=self._scrub(found.text))

    def _sampling(self, seed: int, max_tokens: int) -> dict[str, Any]:
        sampling = self._config.sampling
        usual = {"max_tokens": max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
        return {**usual, **sampling.switched_on}

    async def _send(self, body: dict[str, Any]) -> Any:
        assert self._client is not None  # made by ``start``
        if "prompt" in body:
            prompt, rest = {"prompt": body["prompt"]}, {name: body[name] for name in body if name != "prompt"}
            return await self._client.completions.create(**prompt, model=self._model, extra_body=rest)
        rest = {name: body[name] for name in body if name != "messages"}
        create = self._client.chat.completions.create
        return await create(messages=body["messages"], model=self._model, extra_body=rest)

    # -- answers ---------------------------------------------------------------------------------------------------

    def _read(self, request_id: str, stops: Sequence[str], answer: Any) -> Generation | Trouble:
        """Read an answer; servers are less strict than the client's types say."""
        choice = self._only_choice(answer)
        if isinstance(choice, Trouble):
            return choice
        reason, text = answers.ending(choice), answers.written(choice)
        cut = answers.cut_at_stop(text, stops)
        if cut != text:
            text, reason = cut, "stop"
        elif not text and reason == "stop" and (aside := answers.declined(choice)):
            return Trouble(text=self._scrub(f"the model declined: {aside}"), is_final=True, is_excused=True)
        elif not text and (aside := answers.thoughts(choice)):
            text = f"<think>\n{aside}"  # a thought that never ends, for ``read_answer``
        text += kept_of_stop(getattr(choice, "stop_reason", None))  # only vLLM's server sends it
        return Generation(
            request_id=request_id,
            text=hide(text, self._secrets),  # it goes into the dataset, and a server may repeat what it was sent
            finish_reason=reason,
            **answers.usage(answer),
        )

    def _read_choice(self, choices: Sequence[str], answer: Any) -> Choice | Trouble:
        choice = self._only_choice(answer)
        if isinstance(choice, Trouble):
            return choice
        if not (likeliest := likeliest_tokens(getattr(choice, "logprobs", None))):
            return Trouble(text="the endpoint sends no probabilities (logprobs)", is_final=True, is_excused=True)
        if opens_thought(max(likeliest, key=itemgetter(1))[0]):
            hint = "set generator.thinking: off, which its chat template must know"
            return Trouble(text=f"the model thinks aloud before it answers: {hint}", is_final=True, is_excused=True)
        return Choice(probabilities=read_likeliest(likeliest, choices), **answers.usage(answer))

    def _only_choice(self, answer: Any) -> Any:
        choices = getattr(answer, "choices", None)
        if not choices:
            return self._without_choices(answer)
        reason = getattr(choices[0], "finish_reason", None)
        match answers.ending(choices[0]):
            case "filtered" | "calls" as kind:
                text = self._scrub(f"the endpoint ended the request with {reason!r}")
                return Trouble(text=text, is_final=True, is_excused=kind == "filtered")
            case "broken":
                return Trouble(text=self._scrub(f"the endpoint broke the answer off with {reason!r}"))
        return choices[0]

    def _without_choices(self, answer: Any) -> Trouble:
        """An answer in another protocol than OpenAI's; an empty list or an error may pass, though the status is 200."""
        error = getattr(answer, "error", None)
        if isinstance(error, Mapping) and (told := trouble.of_error(error)) is not None:
            return replace(told, text=self._scrub(told.text))
        says = answers.without_choices(answer)
        is_other = getattr(answer, "choices", None) is None and not error
        if isinstance(answer, str) and answers.is_web_page(answer):
            advice = trouble.page_advice(self._endpoint.url)
        elif isinstance(answer, str) and answer.lstrip().startswith("data:"):
            advice = "The server streams its answers though it was not asked to; switch that off there."
        else:
            advice = "Give the base URL of the server's OpenAI interface, which usually ends in /v1."
        text = self._scrub(f"an answer without choices: {says}")
        return Trouble(text=text, advice=advice, is_hopeless=is_other)

    def _count_refusal(self, refusal: Trouble) -> None:
        """Take note of a refusal; so many in a row with the same words mean that the server refuses all requests."""
        if refusal.is_excused:
            return
        if self._refusals and _alike(self._refusals[-1]) != _alike(refusal):
            self._refusals.clear()
        self._refusals.append(refusal)
        if len(self._refusals) >= _MOST_REFUSALS:
            self._refusal_of_all = f"the endpoint refused {len(self._refusals)} requests in a row ({refusal})"

    def _note(self, answer: Generation | Choice | Trouble, sent: float) -> None:
        """Learn from an answer how many requests to send at once, and whether the endpoint is reachable."""
        now = time.monotonic()
        self._num_replies += not isinstance(answer, Trouble) or bool(answer.status)
        if not isinstance(answer, Trouble):
            self._refusals.clear()
        if not isinstance(answer, Trouble) or answer.is_final:
            self._failing_since = None
            self._gate.answered(sent, now)
            return
        self._gate.pause(now + answer.retry_after_s)
        if answer.retry_after_s > self._config.request_s:
            self._spent = answer
        if answer.is_busy:
            self._failing_since = None
            self._gate.cut(sent, now)
        elif self._failing_since is None:
            # Only at the first failure in a row: fewer requests do not bring back a server that is away.
            self._failing_since = now
            self._gate.cut(sent, now)
        elif answer.is_spent and now - self._failing_since >= _FIRST_CONTACT_S:
            self._spent = answer
        elif now - self._failing_since >= _UNREACHABLE_S:
            failing_s = now - self._failing_since
            said = f"{answer}; {answer.advice}" if answer.advice else f"{answer}"
            self._death = f"{self._endpoint.url} has failed for {failing_s:.0f} s ({said})"

    async def _refusal(self, found: Trouble) -> InputError:
        """The error that says what is wrong with the endpoint's settings, judged by its answer."""
        field, value = self._field, self._endpoint.url
        if found.is_away:
            return InputError(f"nobody answers there ({found})", field=f"{field}.url", value=value, hint=found.advice)
        if found.is_hopeless or found.is_faulty:
            problem = f"the endpoint cannot be asked ({found})"
            hint = found.advice or "The server fails at the job's trial request; its log may say why."
            return InputError(problem, field=f"{field}.url", value=value, hint=hint)
        if self._ends_run(found):
            return self._spent_key(found)
        if found.status in trouble.KEY_REFUSED:
            complaint = "does not take the key" if self._secrets else "wants a key"
            complaint = "forbids it" if found.status == HTTPStatus.FORBIDDEN else complaint
            hint = (
                f"The key is read from {self._endpoint.key_env} in the environment of the Ray workers. {found.advice}"
            )
            problem = f"the endpoint {complaint} ({found})"
            return InputError(problem, field=f"{field}.key_env", value=value, hint=hint)
        if found.status == HTTPStatus.NOT_FOUND or trouble.names_no_model(found.text):
            names = ", ".join(await self._list_models())
            hint = f"It serves: {names}." if names else "Check the URL (it usually ends in /v1) and the model's name."
            if ".azure.com" in value:
                hint += " Azure's URLs are https://NAME.openai.azure.com/openai/v1, or end in "
                hint += "/openai/deployments/DEPLOYMENT?api-version=VERSION."
            problem = f"the endpoint does not know model {self._model} or this URL ({found})"
            return InputError(problem, field=field, value=value, hint=hint)
        hint = found.advice or (
            "It also refused without seed, temperature and top_p, with max_completion_tokens for max_tokens, and "
            "without a system message. What else it wants goes into `extra_body`, `headers`, `query` or `parameters`."
        )
        return InputError(f"the endpoint refuses what is asked of it ({found})", field=field, value=value, hint=hint)

    def _ends_run(self, found: Trouble) -> bool:
        """Whether nobody but the user can end the wait, or it is longer than a request may take."""
        return found.is_spent or found.retry_after_s > self._config.request_s

    def _spent_key(self, found: Trouble) -> InputError:
        problem, name = f"the credit of the key is used up ({found})", self._endpoint.key_env
        hint = f"Add credit, or put another key into {name}."
        if not found.is_spent:
            problem = f"the endpoint takes no request for {found.retry_after_s:.0f} s ({found})"
            hint = f"That is longer than generator.request_s. Go on then, or put another key into {name}."
        return InputError(problem, field=f"{self._field}.key_env", value=self._endpoint.url, hint=hint)

    async def _list_models(self) -> list[str]:
        """The first few models of the endpoint; empty if it does not list them."""
        assert self._client is not None  # made by ``start``
        try:
            page = await self._client.models.list(timeout=_CONNECT_S)
            return [self._scrub(str(model.id)) for model in page.data[:5]]
        except (openai.OpenAIError, ValueError, AttributeError, TypeError):  # a list in another form
            return []

    def _scrub(self, text: str) -> str:
        text = " ".join(valid_text(text).split())
        for secret in self._secrets:
            text = scrub(text, secret)
        return text[:_LONGEST_TEXT]

    # -- life ------------------------------------------------------------------------------------------------------

    def stats(self) -> EngineStats:
        """Requests sent and held back, tokens as the endpoint counts them, and the current limit."""
        return EngineStats(
            num_running=self._gate.num_running,
            num_waiting=max(0, self._num_open - self._gate.num_running),
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_tokens=self._num_cached_tokens,
            num_output_tokens=self._num_output_tokens,
            num_replies=self._num_replies,
            capacity=self._gate.limit,
        )

    def take_timings(self) -> list[Timing]:
        """Nothing: answers arrive whole."""
        return []

    async def check(self) -> None:
        """Raise once the endpoint was unreachable for a minute, or refused everything or the key for a while."""
        if self._death:
            raise EngineDeadError(self._death)
        if self._spent is not None:
            raise self._spent_key(self._spent)
        if self._refusal_of_all:
            hint = "What it does not take can be left out or renamed: `parameters` of the endpoint (docs/endpoints.md)."
            raise InputError(self._refusal_of_all, field=self._field, value=self._endpoint.url, hint=hint)

    async def sleep(self, level: int) -> None:
        """Do nothing: the devices belong to the server."""

    async def wake(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None


def _extra_body(config: GeneratorConfig, endpoint: EndpointConfig) -> dict[str, Any]:
    """What is added to each request: the switch of thinking, and what the job says itself."""
    switch = {"chat_template_kwargs": NO_THINKING} if config.thinking == "off" else {}
    return {**switch, **endpoint.extra_body}


def _some_prompt(config: GeneratorConfig) -> Prompt:
    return Prompt(user="Say hello.") if config.prompt_form == "chat" else Prompt(text="Hello")


def _choice_settings(prompt: Prompt) -> dict[str, Any]:
    in_chat = {"logprobs": True, "top_logprobs": _LIKELIEST_IN_CHAT}
    logprobs = in_chat if prompt.text is None else {"logprobs": _LIKELIEST}
    # Temperature 1, since some servers apply the temperature to the probabilities that they send.
    return {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "seed": 0, **logprobs}


def _num_tokens(body: dict[str, Any]) -> float:
    """The tokens that a request will probably take: its prompt's, by their letters, and the most of its answer."""
    prompt = body.get("prompt") or json.dumps(body.get("messages", ""))
    limits = (body.get(name) for name in ("max_tokens", "max_completion_tokens"))
    return len(prompt) / _LETTERS_PER_TOKEN + next((limit for limit in limits if isinstance(limit, int)), 0)


def _alike(refusal: Trouble) -> tuple[int, str]:
    """What refusals with the same cause have in common: lengths and ids differ."""
    return refusal.status, re.sub(r"\w*\d\w*", "#", refusal.text)
