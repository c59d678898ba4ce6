"""Servers that speak OpenAI's protocol, through the official client; each engine of the pool talks to one of them.

The number of concurrent requests adapts to the server (``rate_limit``). A request that finds it busy is sent again
until the actor's limit for a request (``generator.request_s``) ends it. The key is read from the environment of this
process and leaves it only in the client's header: it is removed from every text that comes from outside, and no error
has a cause that may hold it.
"""

import asyncio
import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
import openai

from s3ray.errors import EngineDeadError, InputError, RequestRefusedError
from s3ray.generator.engines.base import Choice, EngineSpec, Timing, configured_limits, kept_of_stop
from s3ray.generator.engines.label_probabilities import likeliest_tokens, read_likeliest
from s3ray.generator.engines.rate_limit import Gate
from s3ray.redaction import hide, scrub
from s3ray.text import valid_text
from s3ray.types import EngineLimits, EngineStats, Generation, Prompt

_CONNECT_S = 10.0  # a server that is up accepts a connection within milliseconds, through a busy proxy within seconds
_UNREACHABLE_S = 60.0  # a server that restarts or is deployed anew is usually back within a minute
_BACK_OFF_S = 0.5
_LONGEST_BACK_OFF_S = 15.0  # a server that has recovered is noticed within seconds
_PROBE_TOKENS = 16  # enough for a real answer, and cheap
_LIKELIEST_IN_CHAT, _LIKELIEST = 20, 5  # the most log probabilities that OpenAI's two interfaces send for a token
_LONGEST_TEXT = 300  # of a server's message, which may be a whole page of HTML
_MOST_TOKENS = 2**31  # of one answer: a greater count is a fault of the server
_NO_KEY = "none"  # the client refuses an empty one
_KEY_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PAYMENT_REQUIRED)
_MAY_PASS = (*_KEY_REFUSED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trouble:
    """Why a server did not answer.

    ``status`` is 0 if there was no proper HTTP answer. ``is_final``: the server refuses this request, and would again.
    ``is_busy``: the server works but wants fewer requests.
    """

    text: str
    status: int = 0
    is_final: bool = False
    is_busy: bool = False
    retry_after_s: float = 0.0

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.text}" if self.status else self.text


Answer = TypeVar("Answer", Generation, Choice)
Reader = Callable[[Any], Answer | _Trouble]


class OpenAIEngine:
    """One endpoint of the job; engines take the endpoints in turn, so that several may share one."""

    needs_devices = loads_model = False

    def __init__(self, spec: EngineSpec) -> None:
        config = spec.config
        self._config = config
        self._place = spec.number % len(config.endpoints)
        endpoint = config.endpoints[self._place]
        self._endpoint = endpoint
        self._model = endpoint.model or config.model
        self._secret = os.environ.get(endpoint.key_env, "").strip()
        self._gate = Gate(config.max_num_seqs)
        self._client: openai.AsyncOpenAI | None = None
        self._num_open = 0
        self._failing_since: float | None = None
        self._death = ""
        self._num_prompt_tokens = self._num_cached_tokens = self._num_output_tokens = self._num_replies = 0

    async def start(self) -> EngineLimits:
        """Ask the endpoint for a few tokens, in the same way as the job will.

        Raises:
            InputError: the endpoint refuses the key, does not know the model, or refuses the trial request.
            EngineDeadError: the endpoint cannot be reached.
        """
        config = self._config
        if not all("!" <= letter <= "~" for letter in self._secret):
            field = f"generator.endpoints.{self._place}.key_env"
            hint = "It must be one line of ASCII without spaces."
            problem = f"{self._endpoint.key_env} holds characters that no HTTP header can carry"
            raise InputError(problem, field=field, hint=hint)
        connections = httpx2.Limits(max_connections=config.max_num_seqs, max_keepalive_connections=config.max_num_seqs)
        timeout = openai.Timeout(None, connect=_CONNECT_S)
        self._client = openai.AsyncOpenAI(
            api_key=self._secret or _NO_KEY,
            base_url=self._endpoint.url,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(limits=connections, timeout=timeout),
        )
        is_chat = config.prompt_form == "chat"
        prompt = Prompt(user="Say hello.") if is_chat else Prompt(text="Hello")
        for attempt in itertools.count():
            answer = await self._ask(prompt, self._sampling(0, _PROBE_TOKENS), partial(self._read, "probe"))
            if not isinstance(answer, _Trouble):
                break
            if answer.is_final or answer.status in _KEY_REFUSED:
                raise await self._refusal(answer)
            await self._wait(attempt)
        return configured_limits(config, dtype="unknown", device="endpoint")

    async def generate(self, request_id: str, prompt: Prompt, *, seed: int, max_tokens: int) -> Generation:
        """Complete one prompt; asks again while the server is busy or away."""
        return await self._insist(prompt, self._sampling(seed, max_tokens), partial(self._read, request_id))

    async def choose(self, request_id: str, prompt: Prompt) -> Choice:
        """Read the choices' probabilities from the likeliest first tokens, which the server must send (``logprobs``).

        A choice that is not among them gets an upper bound (``label_probabilities.read_likeliest``).
        """
        in_chat = {"logprobs": True, "top_logprobs": _LIKELIEST_IN_CHAT}
        logprobs = in_chat if prompt.text is None else {"logprobs": _LIKELIEST}
        # Temperature 1, since some servers apply the temperature to the probabilities that they send.
        settings = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "seed": 0, **logprobs}
        return await self._insist(prompt, settings, partial(self._read_choice, prompt.choices))

    async def _insist(self, prompt: Prompt, settings: dict[str, Any], read: Reader[Answer]) -> Answer:
        if not self._num_open:
            self._failing_since = None  # nothing was asked for a while: earlier failures say nothing about now
        self._num_open += 1
        try:
            for attempt in itertools.count():
                await self.check()
                answer = await self._ask(prompt, settings, read)
                if not isinstance(answer, _Trouble):
                    self._num_prompt_tokens += answer.num_prompt_tokens
                    self._num_cached_tokens += answer.num_cached_tokens
                    self._num_output_tokens += answer.num_output_tokens
                    return answer
                if answer.is_final:
                    raise RequestRefusedError(str(answer))
                await self._wait(attempt)
            raise AssertionError("unreachable")
        finally:
            self._num_open -= 1

    async def _wait(self, attempt: int) -> None:
        await self.check()
        # No random jitter is needed: the gate admits requests one by one, even if all of them wait equally long.
        await asyncio.sleep(min(_LONGEST_BACK_OFF_S, _BACK_OFF_S * 2.0 ** min(attempt, 10)))

    async def _ask(self, prompt: Prompt, settings: dict[str, Any], read: Reader[Answer]) -> Answer | _Trouble:
        """Ask once, as soon as the gate admits it.

        Trouble is returned, not raised: an error raised here would refer to the client's error, which holds the key.
        """
        await self._gate.enter()
        sent = time.monotonic()
        try:
            answer = await self._attempt(prompt, settings, read)
            self._note(answer, sent)
        finally:
            self._gate.leave()  # after the note, so that the next request is held back if the answer says so
        return answer

    async def _attempt(self, prompt: Prompt, settings: dict[str, Any], read: Reader[Answer]) -> Answer | _Trouble:
        try:
            return read(await self._send(prompt, settings))
        except openai.APIStatusError as error:
            return self._status_trouble(error)
        except (openai.OpenAIError, ValueError) as error:
            # ValueError: a broken body.
            cause = error.__cause__ or error
            return _Trouble(text=self._scrub(f"{type(cause).__name__}: {cause}"))

    def _sampling(self, seed: int, max_tokens: int) -> dict[str, Any]:
        sampling = self._config.sampling
        return {"max_tokens": max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}

    async def _send(self, prompt: Prompt, settings: dict[str, Any]) -> Any:
        assert self._client is not None  # made by ``start``
        settings = settings | {"model": self._model, "stop": list(prompt.stop) or openai.omit}
        if prompt.text is not None:
            return await self._client.completions.create(prompt=prompt.text, **settings)
        messages: Any = prompt.messages  # the client has a type for each role
        return await self._client.chat.completions.create(messages=messages, **settings)

    def _read(self, request_id: str, answer: Any) -> Generation | _Trouble:
        """Read an answer; servers are less strict than the client's types say."""
        choice = self._only_choice(answer)
        if isinstance(choice, _Trouble):
            return choice
        written = getattr(choice, "text", None) or getattr(getattr(choice, "message", None), "content", None) or ""
        written += kept_of_stop(getattr(choice, "stop_reason", None))  # only vLLM's server sends it
        return Generation(
            request_id=request_id,
            text=hide(written, [self._secret]),  # it goes into the dataset, and a server may repeat what it was sent
            finish_reason=choice.finish_reason,
            **_usage(answer),
        )

    def _read_choice(self, choices: Sequence[str], answer: Any) -> Choice | _Trouble:
        choice = self._only_choice(answer)
        if isinstance(choice, _Trouble):
            return choice
        if not (likeliest := likeliest_tokens(getattr(choice, "logprobs", None))):
            return _Trouble(text="the endpoint sends no probabilities (logprobs)", is_final=True)
        return Choice(probabilities=read_likeliest(likeliest, choices), **_usage(answer))

    def _only_choice(self, answer: Any) -> Any:
        choices = getattr(answer, "choices", None)
        if not choices:
            detail = answer if isinstance(answer, str) else getattr(answer, "error", None)
            return _Trouble(text=self._scrub(f"an answer without choices: {detail}"))
        reason = getattr(choices[0], "finish_reason", None)
        if reason not in ("stop", "length"):
            return _Trouble(text=self._scrub(f"the endpoint ended the request with {reason!r}"), is_final=True)
        return choices[0]

    def _status_trouble(self, error: openai.APIStatusError) -> _Trouble:
        status = error.status_code
        return _Trouble(
            text=self._scrub(error.message),
            status=status,
            is_final=400 <= status < 500 and status not in _MAY_PASS,
            # The same status can also mean that the credit is used up; then fewer requests do not help.
            is_busy=status == HTTPStatus.TOO_MANY_REQUESTS and error.code != "insufficient_quota",
            retry_after_s=read_retry_after(error.response.headers.get("retry-after", ""), datetime.now(UTC)),
        )

    def _note(self, answer: Generation | Choice | _Trouble, sent: float) -> None:
        """Learn from an answer how many requests to send at once, and whether the endpoint is reachable."""
        now = time.monotonic()
        self._num_replies += not isinstance(answer, _Trouble) or bool(answer.status)
        if not isinstance(answer, _Trouble) or answer.is_final:
            self._failing_since = None
            self._gate.answered(sent, now)
            return
        self._gate.pause(now + answer.retry_after_s)
        if answer.is_busy:
            self._failing_since = None
            self._gate.cut(sent, now)
        elif self._failing_since is None:
            # Only at the first failure in a row: fewer requests do not bring back a server that is away.
            self._failing_since = now
            self._gate.cut(sent, now)
        elif now - self._failing_since >= _UNREACHABLE_S:
            self._death = f"{self._endpoint.url} has failed for {now - self._failing_since:.0f} s ({answer})"

    async def _refusal(self, trouble: _Trouble) -> InputError:
        """The error that says what is wrong with the endpoint's settings, judged by its answer."""
        field, value = f"generator.endpoints.{self._place}", self._endpoint.url
        if trouble.status in _KEY_REFUSED:
            complaint = "does not take the key" if self._secret else "wants a key"
            hint = f"The key is read from {self._endpoint.key_env} in the environment of the Ray workers."
            return InputError(f"the endpoint {complaint} ({trouble})", field=f"{field}.key_env", value=value, hint=hint)
        if trouble.status == HTTPStatus.NOT_FOUND:
            names = ", ".join(await self._list_models())
            hint = f"It serves: {names}." if names else "Check the URL (it usually ends in /v1) and the model's name."
            problem = f"the endpoint does not know model {self._model} or this URL ({trouble})"
            return InputError(problem, field=field, value=value, hint=hint)
        hint = "A server that refuses a trial request refuses every request of the job."
        return InputError(f"the endpoint refuses what is asked of it ({trouble})", field=field, value=value, hint=hint)

    async def _list_models(self) -> list[str]:
        """The first few models of the endpoint; empty if it does not list them."""
        assert self._client is not None  # made by ``start``
        try:
            page = await self._client.models.list(timeout=_CONNECT_S)
        except (openai.OpenAIError, ValueError):
            return []
        return [self._scrub(str(model.id)) for model in page.data[:5]]

    def _scrub(self, text: str) -> str:
        return scrub(" ".join(valid_text(text).split()), self._secret)[:_LONGEST_TEXT]

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
        """Raise once the endpoint has been unreachable for a minute."""
        if self._death:
            raise EngineDeadError(self._death)

    async def sleep(self, level: int) -> None:
        """Do nothing: the devices belong to the server."""

    async def wake(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None


def _usage(answer: Any) -> dict[str, int]:
    """The token counts of an answer by our names; 0 where the server sends none, or nonsense."""
    usage = getattr(answer, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    counts = {
        "num_prompt_tokens": getattr(usage, "prompt_tokens", None),
        "num_cached_tokens": getattr(details, "cached_tokens", None),
        "num_output_tokens": getattr(usage, "completion_tokens", None),
    }
    return {name: num if isinstance(num, int) and 0 <= num < _MOST_TOKENS else 0 for name, num in counts.items()}


def read_retry_after(header: str, now: datetime) -> float:
    """The seconds that a ``Retry-After`` header asks for (RFC 9110: seconds or a date); 0 if missing or malformed."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header).astimezone(UTC) - now).total_seconds()
        except ValueError:
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
