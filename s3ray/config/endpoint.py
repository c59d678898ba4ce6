"""The address of an endpoint as users paste it, and the secrets that its headers and query are filled with."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from s3ray.errors import InputError

_PLACE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_INTERFACES = ("/chat/completions", "/completions")  # what documentation shows in full; the client adds them itself
_FOREIGN = re.compile(r"/(responses|messages|embeddings|models|api/(generate|chat|tags)|generate|generate_stream)$")
_IN_URL = "api-version"  # Azure's, and no secret
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET = re.compile(r"auth|key|token|secret|passw|cookie|signature|^sig$|^code$", re.I)
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_HINT = (
    "http:// or https://, host and path, such as https://api.openai.com/v1. Keys come from key_env, what else a server "
    "wants from `headers` and `query`; only ?api-version= may stand in the URL."
)
OWN_PARAMETERS = frozenset(
    ("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs")
)
"""What each request holds by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """The base URL, to which the client adds ``/chat/completions`` or ``/completions``, and what follows the ``?``."""

    base: str
    query: Mapping[str, str]

    @property
    def host(self) -> str:
        """The host's name."""
        return urlsplit(self.base).hostname or ""

    @property
    def is_azure(self) -> bool:
        """Whether Azure answers there: it takes keys in a header of its own (``api-key``)."""
        return self.host.endswith(_AZURE)


def read_address(url: str, field: str) -> Address:
    """Read the URL of an endpoint.

    Raises:
        InputError: it is none that can be used. The error does not show it, since it may hold a key.
    """
    if "://" not in url:
        hint = "Put http:// before it (a server of your own network) or https://, such as https://api.openai.com/v1."
        raise InputError("does not begin with http:// or https://", field=field, hint=hint)
    parts = None
    try:
        parts = urlsplit(url)
        is_plain = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        is_plain, query = False, {}
    has_extras = "@" in url or "#" in url or re.search(r"\s", url) or any(name.lower() != _IN_URL for name in query)
    if parts is None or not is_plain or has_extras:
        raise InputError("is not a plain URL (no user, password, query or fragment)", field=field, hint=_HINT)
    path = parts.path.rstrip("/")
    if foreign := _FOREIGN.search(path):
        hint = "Give the base URL, which usually ends in /v1 (Ollama: http://HOST:11434/v1)."
        problem = f"ends in {foreign[0]}, which is another interface than OpenAI's chat completions"
        raise InputError(problem, field=field, hint=hint)
    for interface in _INTERFACES:
        path = path.removesuffix(interface)
    return Address(base=urlunsplit((parts.scheme, parts.netloc, path, "", "")), query=query)


def variables_in(texts: Iterable[str]) -> list[str]:
    """The environment variables that stand in texts as ``${NAME}``."""
    return [name for text in texts for name in _PLACE.findall(text)]


def fill(text: str, environment: Mapping[str, str], field: str) -> str:
    """A text with each ``${NAME}`` replaced by the value of that variable.

    Raises:
        InputError: a variable is not set.
    """

    def value(place: re.Match[str]) -> str:
        name = place[1]
        if not environment.get(name, "").strip():
            hint = f"Export {name} before `ray start`, or before `s3ray run` where that starts Ray."
            raise InputError(f"the environment of the engine has no {name}", field=field, hint=hint)
        return environment[name].strip()

    return _PLACE.sub(value, text)


def check_extras(
    headers: Mapping[str, str],
    query: Mapping[str, str],
    body: Mapping[str, object],
    *,
    field: str,
    sampling: Collection[str] = (),
) -> None:
    """Check what is added to each request of an endpoint. ``sampling`` are settings that this job's requests hold too.

    Raises:
        InputError: a header has no valid name or value, a secret stands there itself, or the body says what requests
            say by themselves. No value is shown.
    """
    for kind, extras in (("headers", headers), ("query", query)):
        for name, value in extras.items():
            place = f"{field}.{kind}.{name}"
            if _SECRET.search(name) and not _PLACE.search(value):
                hint = "Keys come from the environment: write ${NAME} with the name of the variable that holds it."
                raise InputError("looks like a key or a password", field=place, hint=hint)
            if kind == "headers" and not (_HEADER.fullmatch(name) and value.isascii() and value.isprintable()):
                raise InputError("cannot be a header", field=place, hint="It must be one line of ASCII.")
    for name in body:
        if name in OWN_PARAMETERS or name in ("stream", "n") or name in sampling:
            hint = "Requests say this themselves: see generator.sampling, generator.model and `parameters` here."
            raise InputError("cannot be set here", field=f"{field}.extra_body.{name}", hint=hint)
