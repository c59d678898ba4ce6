"""Reads the answers of servers that speak OpenAI's protocol, which are less strict than the protocol. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from s3ray.generator.engines.base import kept_of_stop

_MOST_TOKENS = 2**31  # of one answer: a greater count is a fault of the server
_CUT = {"length", "max_tokens", "max_completion_tokens", "max_output_tokens", "model_length"}
_FILTERED = {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "refusal"}
_FILTERED |= {"content_filtered", "guardrail_intervened", "sensitive"}
_CALLS = {"tool_calls", "function_call", "tool_use"}
_BROKEN = {"error", "abort", "insufficient_system_resource"}
_TEXT_PARTS = {"text", "output_text", None}


def ending(choice: Any) -> str:
    """How an answer ended: ``stop``, ``length``, ``filtered``, ``calls`` (it wants to use a tool) or ``broken``.

    Servers have many words for it, and what is none of the others is an ordinary end.
    """
    reason = getattr(choice, "finish_reason", None)
    said = str(reason).lower()
    for kind, words in (("length", _CUT), ("filtered", _FILTERED), ("calls", _CALLS), ("broken", _BROKEN)):
        if said in words:
            return kind
    return "stop"


def written(choice: Any) -> str:
    """The text of an answer. Of a content in parts it is the text parts, without those that hold thoughts."""
    text = getattr(choice, "text", None)
    return text if isinstance(text, str) else _plain(getattr(getattr(choice, "message", None), "content", None))


def _plain(content: Any) -> str:
    match content:
        case str():
            return content
        case list() | tuple():
            return "".join(map(_plain, content))
    kind, text = _get(content, "type"), _get(content, "text")
    return text if isinstance(text, str) and (kind in _TEXT_PARTS) else ""


def _get(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)


def thoughts(choice: Any) -> str:
    """What the model thought aloud, where the server sends it apart from the text (three names are in use)."""
    message = getattr(choice, "message", None)
    found = (_get(message, name) for name in ("reasoning_content", "reasoning", "thinking"))
    return next((text for text in found if isinstance(text, str) and text), "")


def declined(choice: Any) -> str:
    """The words in which the model declined to answer, where the server sends them apart from the text."""
    refusal = getattr(getattr(choice, "message", None), "refusal", None)
    return refusal if isinstance(refusal, str) else ""


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stop strings in it, for servers that do not end there themselves."""
    places = [(place, -len(stop), stop) for stop in stops if stop and (place := text.find(stop)) >= 0]
    if not places:
        return text
    place, _, stop = min(places)
    return text[:place] + kept_of_stop(stop)


def usage(answer: Any) -> dict[str, int]:
    """The token counts of an answer by our names; 0 where the server sends none, or nonsense."""
    told = getattr(answer, "usage", None)
    details = getattr(told, "prompt_tokens_details", None)
    counts = {
        "num_prompt_tokens": getattr(told, "prompt_tokens", None),
        "num_cached_tokens": getattr(details, "cached_tokens", None),
        "num_output_tokens": getattr(told, "completion_tokens", None),
    }
    return {name: num if isinstance(num, int) and 0 <= num < _MOST_TOKENS else 0 for name, num in counts.items()}


def words_of(body: str) -> str:
    """The message in the body of a refusal: OpenAI's ``error.message`` with what it names, else the body itself."""
    try:
        plain = json.loads(body)
    except ValueError:
        return body
    error = plain.get("error", plain) if isinstance(plain, Mapping) else plain
    message = error.get("message") if isinstance(error, Mapping) else None
    if not isinstance(message, str) or not message:
        return body
    param = error.get("param")
    return f"{message} (param {param})" if isinstance(param, str) and param and param not in message else message


def without_choices(answer: Any) -> str:
    """What an answer without choices says instead."""
    detail = answer if isinstance(answer, str) else getattr(answer, "error", None)
    if detail is None and hasattr(answer, "model_dump_json"):
        return str(answer.model_dump_json(exclude_unset=True))
    return str(detail)


def is_web_page(text: str) -> bool:
    """Whether a text is HTML: a page for people, by a proxy or another server."""
    return text.lstrip()[:200].lower().startswith(("<!doctype html", "<html", "<head", "<!--"))
