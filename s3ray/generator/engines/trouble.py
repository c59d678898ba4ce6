"""Why a server did not answer, and what to do about it, in words. Pure."""

import os
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isfinite
from typing import Any

import httpx2
import openai

from s3ray.generator.engines.answers import is_web_page, words_of

KEY_REFUSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_MAY_PASS = (*KEY_REFUSED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_NO_STATUS = 600  # and above: codes of a server's own
_PLAIN_TO_HTTPS = re.compile(r"plain http request|http request to an? https|requires? (tls|https)", re.I)
_NO_MODEL = re.compile(r"model\b.{0,80}\bnot (exist|found)|(no such|unknown) model", re.I)
_FILTER = re.compile(r"content.?(filter|polic|management)|responsible.?ai", re.I)
_FILTERED = {"content_filter", "content_policy_violation"}
_SPENT = {"insufficient_quota", "billing_hard_limit_reached", "exceeded_current_quota_error", "arrearage"}
# Providers say it with 400, 402, 403 or 429. Not "exceeded your current quota": Google says that of a quota per minute.
_NO_CREDIT = re.compile(
    r"insufficient[ _](account )?(balance|credits?|funds|quota)|balance (is|was) (too low|insufficient|not enough)"
    r"|(out of|not enough|no more|used all available) credits?|spending limit|余额不足|欠费",
    re.I,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a server did not answer. ``text`` is what it said, ``advice`` a way out.

    ``status`` is 0 if there was no proper HTTP answer. ``is_final``: the server refuses this request, and would again.
    ``is_excused``: it refuses the text, not the manner of asking. ``is_busy``: the server works but wants fewer
    requests. ``is_away``: nobody answers there. ``is_hopeless``: no later try will do better. ``is_filtered``: the
    server's policy forbids this text, and maybe no other. ``is_faulty``: the server itself fails, maybe each time.
    ``is_spent``: the credit of the key is used up; nothing is refused for good, since it may be topped up.
    """

    text: str
    status: int = 0
    advice: str = ""
    is_final: bool = False
    is_excused: bool = False
    is_busy: bool = False
    is_away: bool = False
    is_hopeless: bool = False
    is_filtered: bool = False
    is_faulty: bool = False
    is_spent: bool = False
    retry_after_s: float = 0.0

    def __str__(self) -> str:
        return f"HTTP {self.status}: {self.text}" if self.status else self.text


def of_status(error: openai.APIStatusError) -> Trouble:
    """The trouble of an HTTP status that is no success; its text is not scrubbed yet."""
    status, headers = error.status_code, error.response.headers
    body = error.response.text
    words = words_of(body) if body.strip() else error.message
    found = _judged(status, words, {str(error.code), str(error.type)})
    advice = ""
    if is_plain := status == HTTPStatus.BAD_REQUEST and bool(_PLAIN_TO_HTTPS.search(body)):
        advice = "The server speaks https there: write https:// in the URL."
    elif is_web_page(body):
        advice = page_advice(str(error.request.url))
    elif "enable_thinking" in words:
        advice = "Its model's thinking is switched off by `extra_body: {enable_thinking: false}` of the endpoint."
    now, milliseconds = datetime.now(UTC), headers.get("retry-after-ms")
    retry_after_s = read_retry_after(headers.get("retry-after", ""), now, milliseconds)
    return replace(found, advice=advice, is_hopeless=is_plain, retry_after_s=retry_after_s)


def of_error(error: Mapping[str, Any]) -> Trouble | None:
    """The trouble of an error that a server sends as a success, with the status in its body; None without one."""
    status = error.get("status") or error.get("code")
    if not isinstance(status, int) or not HTTPStatus.BAD_REQUEST <= status < _NO_STATUS:
        return None
    message = error.get("message")
    return _judged(status, message if isinstance(message, str) and message else str(error), {str(error.get("type"))})


def names_no_model(words: str) -> bool:
    """Whether the words of a refusal say that there is no such model."""
    return bool(_NO_MODEL.search(words))


def _judged(status: int, words: str, codes: Set[str]) -> Trouble:
    """What a status means, and the words and codes that come with it."""
    is_filtered = bool(codes & _FILTERED) or bool(_FILTER.search(words))
    is_spent = status == HTTPStatus.PAYMENT_REQUIRED or bool({code.lower() for code in codes} & _SPENT)
    is_spent = is_spent or (status < HTTPStatus.INTERNAL_SERVER_ERROR and bool(_NO_CREDIT.search(words)))
    return Trouble(
        text=words,
        status=status,
        is_final=400 <= status < 500 and status not in _MAY_PASS and not is_spent,
        is_excused=is_filtered or "context_length_exceeded" in codes,
        # The same status can also mean that the credit is used up; then fewer requests do not help.
        is_busy=status == HTTPStatus.TOO_MANY_REQUESTS and not is_spent,
        is_filtered=is_filtered,
        is_faulty=status == HTTPStatus.INTERNAL_SERVER_ERROR,
        is_spent=is_spent,
    )


def of_connection(error: Exception, url: str) -> Trouble:
    """The trouble of a line that broke, or a body that cannot be read; its text is not scrubbed yet."""
    causes = list(_causes(error))
    cause = error.__cause__ or error
    text = f"{type(cause).__name__}: {cause}"
    host = host_of(url)
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes) or "CERTIFICATE_VERIFY" in text:
        return Trouble(text=text, advice=_certificate_advice(text) + proxy_advice(url), is_hopeless=True)
    if any(isinstance(each, ssl.SSLError) for each in causes):
        plain = "The server does not speak https there: write http:// in the URL, or the port of its https."
        return Trouble(text=text, advice=plain + proxy_advice(url), is_hopeless=True)
    if any(isinstance(each, socket.gaierror) for each in causes):
        advice = f"The machine that the engine runs on does not know the name {host}." + proxy_advice(url)
        return Trouble(text=text, advice=advice, is_away=True)
    if any(isinstance(each, httpx2.ProxyError) for each in causes):
        return Trouble(text=text, advice=proxy_advice(url).strip(), is_away=True)
    if any(isinstance(each, (httpx2.ConnectError, httpx2.ConnectTimeout)) for each in causes):
        where = (
            "This host is the machine that the engine runs on. " if host in ("localhost", "127.0.0.1", "::1") else ""
        )
        advice = f"{where}Start the server first (one that answers while it loads is waited for), or correct the URL."
        return Trouble(text=text, advice=advice + proxy_advice(url), is_away=True)
    if any(isinstance(each, httpx2.RemoteProtocolError) for each in causes):
        advice = "Is that the port of the server? One that speaks https wants https:// in the URL." + proxy_advice(url)
        return Trouble(text=text, advice=advice, is_away=True)
    return Trouble(text=text, is_faulty=isinstance(error, ValueError))


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        if isinstance(seen, BaseExceptionGroup):
            yield from seen.exceptions
        seen = seen.__cause__ or seen.__context__


def _certificate_advice(text: str) -> str:
    if "expired" in text:
        return "The server's certificate has to be renewed."
    if "mismatch" in text or "not valid for" in text:
        return "The certificate is for another name: write that name in the URL."
    return (
        "Name a PEM file with the certificate of the authority that signed it in the environment of the engines: "
        "export SSL_CERT_FILE=/path/to/ca.pem, before `ray start` or before `s3ray run` where that starts Ray."
    )


def host_of(url: str) -> str:
    """The host of a URL."""
    return httpx2.URL(url).host


def proxy_advice(url: str) -> str:
    """A sentence about the proxy that requests to a URL go through, beginning with a space; empty if there is none."""
    parsed = httpx2.URL(url)
    if urllib.request.proxy_bypass(parsed.host):
        return ""
    names = (f"{parsed.scheme}_proxy", "all_proxy")
    found = [name for name in os.environ if name.lower() in names and os.environ[name]]
    if not found:
        return ""
    return (
        f" Requests go through the proxy that {' and '.join(sorted(found))} names; "
        f"NO_PROXY={parsed.host} in the environment of the engines goes around it."
    )


def page_advice(url: str) -> str:
    """What to do where a web page answers."""
    return (
        "A web page answered: the base URL usually ends in /v1, and a proxy or the sign-in page of a network may "
        "stand between." + proxy_advice(url)
    )


def read_retry_after(header: str, now: datetime, milliseconds: str | None = None) -> float:
    """The seconds that a ``Retry-After`` header asks for (RFC 9110: seconds or a date); 0 if missing or malformed.

    ``milliseconds`` is a ``retry-after-ms`` header, which OpenAI and Azure send beside it and which is more exact.
    """
    try:
        seconds = float(milliseconds) / 1000 if milliseconds else float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header).astimezone(UTC) - now).total_seconds()
        except ValueError:
            return 0.0
    return max(0.0, seconds) if isfinite(seconds) else 0.0
