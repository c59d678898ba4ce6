"""How one server wants to be asked, and how that is found out. Pure: callers send the requests.

Servers that speak OpenAI's protocol differ in what they take: some know no ``seed``, want ``max_completion_tokens`` in
the place of ``max_tokens``, or have models without a system role. What a server refuses is changed step by step,
beginning with what its own words name; then every change that was not needed is taken back.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from s3ray.types import Prompt

_FEWER_STOPS = 4  # the most that OpenAI's own servers take
_FEWER_LIKELIEST = 5  # the most that several other servers take
_NEW_LIMIT = "max_completion_tokens"

_NAMED = {
    "seed": r"seed",
    "top_k": r"top_?k|top-k",
    "min_p": r"min_?p|min-p",
    "repetition_penalty": r"(repetition|repeat).?penalty",
    "presence_penalty": r"presence.?penalty",
    "frequency_penalty": r"frequency.?penalty",
    "max_tokens": r"max_tokens|max_completion_tokens",
    "top_p": r"top_?p|top-p",
    "temperature": r"temperature",
    "system": r"system.?(role|message|prompt|instruction)s?|roles?|developer.?(role|message|instruction)s?",
    "top_logprobs": r"(top_)?logprobs",
    "fewer_stops": r"stop|stop.?sequences?",
    "stop": r"stop|stop.?sequences?",
}
"""Each change, in the order in which they are tried, and how the words of a server name what it concerns."""
CHANGES = tuple(_NAMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How requests are written for one server.

    ``names`` are other names for parameters, None for those that are left out. ``joins_system``: the system message
    stands at the beginning of the user's. ``changes`` were found necessary, beside what the job says itself.
    """

    names: Mapping[str, str | None] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()

    def body(self, prompt: Prompt, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request; ``settings`` are sampling parameters by OpenAI's names."""
        settings = {**settings, "stop": list(prompt.stop)} if prompt.stop else dict(settings)
        if "fewer_stops" in self.changes and "stop" in settings:
            settings["stop"] = settings["stop"][:_FEWER_STOPS]
        if "top_logprobs" in self.changes and "top_logprobs" in settings:
            settings["top_logprobs"] = min(_FEWER_LIKELIEST, settings["top_logprobs"])
        names = {name: self._name(name) for name in settings}
        said = {other: settings[name] for name, other in names.items() if other is not None}
        return {**self._asked(prompt), **said, **self.extra}

    def _asked(self, prompt: Prompt) -> dict[str, Any]:
        if prompt.text is not None:
            return {"prompt": prompt.text}
        if prompt.system and "system" in self.changes:
            return {"messages": [{"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}]}
        return {"messages": prompt.messages}

    def _name(self, parameter: str) -> str | None:
        if parameter in self.names:
            return self.names[parameter]
        if parameter == "max_tokens" and parameter in self.changes:
            return _NEW_LIMIT
        return None if parameter in self.changes and parameter != "top_logprobs" else parameter

    def next_change(self, words: str, prompt: Prompt, settings: Mapping[str, Any]) -> str | None:
        """What to change after a refusal: what its words name, else the first in order; None if nothing is left."""
        left = [change for change in CHANGES if self._can(change, prompt, settings)]
        named = [change for change in left if _names(words, change)]
        return next(iter(named or left), None)

    def names_something(self, words: str) -> bool:
        """Whether the words of a refusal name something that can be changed."""
        return any(_names(words, change) for change in CHANGES)

    def names_system(self, words: str) -> bool:
        """Whether the words of a refusal are about the system message."""
        return "system" not in self.changes and _names(words, "system")

    def _can(self, change: str, prompt: Prompt, settings: Mapping[str, Any]) -> bool:
        """Whether a change would make a difference to this request."""
        if change in self.changes:
            return False
        match change:
            case "system":
                return bool(prompt.system) and prompt.text is None
            case "fewer_stops":
                return len(prompt.stop) > _FEWER_STOPS and "stop" not in self.names
            case "stop":
                return bool(prompt.stop) and "stop" not in self.names
            case "top_logprobs":
                return int(settings.get(change, 0)) > _FEWER_LIKELIEST
        return change in settings and change not in self.names

    def with_change(self, change: str) -> "Dialect":
        """This dialect with one more change."""
        return replace(self, changes=(*self.changes, change))

    def without_change(self, change: str) -> "Dialect":
        """This dialect with one change taken back."""
        return replace(self, changes=tuple(each for each in self.changes if each != change))

    def in_words(self) -> tuple[str, ...]:
        """What was found necessary."""
        return tuple(_in_words(change) for change in self.changes)


def _names(words: str, change: str) -> bool:
    return bool(re.search(rf"(?<![a-z_])({_NAMED[change]})(?![a-z_])", words, re.I))


def _in_words(change: str) -> str:
    said = {
        "max_tokens": f"max_tokens is sent as {_NEW_LIMIT}",
        "system": "the system message is put before the user's",
        "top_logprobs": f"the {_FEWER_LIKELIEST} likeliest tokens are asked for, not more",
        "fewer_stops": f"only the first {_FEWER_STOPS} stop strings are sent, texts are cut at the others here",
        "stop": "no stop strings are sent, texts are cut at them here",
    }
    return said.get(change, f"{change} is left out")


async def adapt(
    dialect: Dialect,
    words: str,
    prompt: Prompt,
    settings: Mapping[str, Any],
    ask: Callable[[Dialect], Awaitable[str | None]],
) -> Dialect | None:
    """Find a way of asking that the server takes; None if there is none.

    ``words`` are those of the first refusal. ``ask`` sends a request in a dialect and returns the server's words if it
    refuses, None if it answers.
    """
    before = dialect.changes
    refusal: str | None = words
    while refusal is not None:
        change = dialect.next_change(refusal, prompt, settings)
        if change is None:
            return None
        dialect = dialect.with_change(change)
        refusal = await ask(dialect)
    for change in [each for each in dialect.changes if each not in before][:-1]:
        if await ask(dialect.without_change(change)) is None:
            dialect = dialect.without_change(change)
    return dialect
