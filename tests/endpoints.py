"""A real HTTP server that speaks OpenAI's protocol, as well or as badly as a test wants."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = web.StreamResponse | None
Script = Callable[[web.Request, dict[str, Any]], Awaitable[Answer]]


async def obey(request: web.Request, body: dict[str, Any]) -> Answer:
    """The script of a good server."""
    return None


def refuse(status: int, message: str = "no", code: str | None = None, **headers: str) -> web.Response:
    """An error as OpenAI words it."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"error": {"message": message, "code": code}}, status=status, headers=named)


@dataclass
class Endpoint:
    """Answers ``word word word``, or as much of it as ``max_tokens`` allows, unless its script says otherwise."""

    script: Script = obey
    models: tuple[str, ...] = ("writer",)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    num_running: int = 0
    peak: int = 0
    url: str = ""
    _runner: web.AppRunner | None = None

    async def __aenter__(self) -> "Endpoint":
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_get("/v1/models", self._list)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.times.append(asyncio.get_running_loop().time())
        self.num_running += 1
        self.peak = max(self.peak, self.num_running)
        try:
            answer = await self.script(request, body)
        finally:
            self.num_running -= 1
        return answer or web.json_response(complete(body))


LIKELIEST = {" yes": 0.6, "No": 0.2, "Well": 0.1}
"""What a server that is asked for probabilities tells of its first token."""


def tell(is_chat: bool, likeliest: dict[str, float]) -> dict[str, Any]:
    """Probabilities of the first token, as the two interfaces of the protocol tell them."""
    tops = {token: math.log(probability) for token, probability in likeliest.items()}
    first = next(iter(tops))
    if not is_chat:
        return {"tokens": [first], "token_logprobs": [tops[first]], "top_logprobs": [tops], "text_offset": [0]}
    told = [{"token": token, "logprob": logprob, "bytes": None} for token, logprob in tops.items()]
    return {"content": [{**told[0], "top_logprobs": told}]}


def complete(body: dict[str, Any], finish_reason: str | None = None, **choice: Any) -> dict[str, Any]:
    """The body of a good answer; ``choice`` replaces or adds fields of its only choice."""
    limit = body.get("max_tokens") or body.get("max_completion_tokens") or 16
    num = min(3, limit)
    text = " ".join(["word"] * num)
    written: dict[str, Any] = {"text": text}
    if "messages" in body:
        written = {"message": {"role": "assistant", "content": text}}
    reason = finish_reason or ("stop" if num < limit else "length")
    if body.get("logprobs"):
        written["logprobs"] = tell("messages" in body, LIKELIEST)
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": num,
        "total_tokens": 7 + num,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    full = {"index": 0, "finish_reason": reason, **written, **choice}
    return {"id": "x", "object": "o", "created": 0, "model": body["model"], "choices": [full], "usage": usage}
