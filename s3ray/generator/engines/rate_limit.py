"""How many requests to send at once to a server that does not say how many it can handle.

``Congestion`` computes the limit and is pure: callers give it the time. ``Gate`` holds requests back accordingly.

The limit follows TCP's congestion window (RFC 5681): it doubles with each round of answers until the first trouble,
then grows by one each round. Trouble halves it, at most once per round trip, because all requests that were under way
at the same moment meet the same trouble.
"""

import asyncio
import statistics
import time
from collections import deque

_START = 16  # a small server can handle it, and doubling soon finds the limit of a large one
_WINDOW = 32  # answers whose median latency is compared: fewer would react to a few long texts
_HISTORY = 256  # earlier answers that they are compared with
_SLOWER = 3.0  # lengths of texts alone do not make a median three times as long


class Congestion:
    """The limit of one server."""

    def __init__(self, ceiling: int) -> None:
        """``ceiling`` is the largest limit."""
        self.limit = min(_START, ceiling)
        self._ceiling = ceiling
        self._is_doubling = True
        self._num_answered = 0
        self._cut_at = float("-inf")
        self._recent: list[float] = []
        self._history: deque[float] = deque(maxlen=_HISTORY)

    def answered(self, sent: float, now: float, *, is_full: bool) -> None:
        """One request was answered. The limit grows only while it is used up (``is_full``): unused, it is unproven."""
        if is_full:
            self._num_answered += 1
        if is_full and (self._is_doubling or self._num_answered >= self.limit):
            self._num_answered = 0
            self.limit = min(self._ceiling, self.limit + 1)
        if sent > self._cut_at:
            self._watch(sent, now)

    def cut(self, sent: float, now: float) -> None:
        """A request sent at ``sent`` was too much for the server: halve the limit."""
        if sent <= self._cut_at:
            return
        self._cut_at = now
        self._is_doubling = False
        self._num_answered = 0
        self._recent = []
        self.limit = max(1, self.limit // 2)

    def _watch(self, sent: float, now: float) -> None:
        """Cut when a window of answers took far longer than those before: a server may queue instead of refusing."""
        self._recent.append(now - sent)
        if len(self._recent) < _WINDOW:
            return
        window, self._recent = self._recent, []
        if self._history and statistics.median(window) > _SLOWER * statistics.median(self._history):
            self._history.clear()  # if fewer requests do not make it faster, this is its normal speed
            self.cut(sent, now)
        self._history.extend(window)


class Pace:
    """When the next request may be sent, if a server allows so many requests and tokens a minute.

    Requests are spaced evenly, because many servers count by the second. Pure: callers give the time.
    """

    def __init__(self, requests_per_minute: float | None = None, tokens_per_minute: float | None = None) -> None:
        """None means no limit."""
        self._per_request_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._per_token_s = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._requests_from = self._tokens_from = 0.0

    @property
    def due(self) -> float:
        """The time from which the next request may be sent."""
        return max(self._requests_from, self._tokens_from)

    def spend(self, num_tokens: float, now: float) -> None:
        """A request is sent, which will take about ``num_tokens``."""
        self._requests_from = max(self._requests_from, now) + self._per_request_s
        self._tokens_from = max(self._tokens_from, now) + num_tokens * self._per_token_s

    def correct(self, num_tokens: float) -> None:
        """An answer took ``num_tokens`` more than was spent for it, or fewer if that is negative."""
        self._tokens_from += num_tokens * self._per_token_s


class Gate:
    """Lets as many requests through as the limit allows; the others wait in the order of arrival."""

    def __init__(self, ceiling: int, pace: Pace | None = None) -> None:
        self._congestion = Congestion(ceiling)
        self._pace = pace or Pace()
        self._resume_at = 0.0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.num_running = 0

    @property
    def limit(self) -> int:
        """Requests that may be under way at once."""
        return self._congestion.limit

    async def enter(self, num_tokens: float = 0.0) -> None:
        """Wait for a place and, for ``num_tokens`` expected tokens, for the pace; must be followed by ``leave``."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, num_tokens))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Free a place."""
        self.num_running -= 1
        self._admit()

    def answered(self, sent: float, now: float) -> None:
        """A request, which is about to leave, was answered; times are those of ``time.monotonic``."""
        self._congestion.answered(sent, now, is_full=bool(self._waiting))

    def cut(self, sent: float, now: float) -> None:
        """The server had too many requests, or could not be reached."""
        self._congestion.cut(sent, now)

    def correct(self, num_tokens: float) -> None:
        """An answer took so many tokens more than were expected."""
        self._pace.correct(num_tokens)

    def pause(self, until: float) -> None:
        """Admit no request before ``until``, a time of ``time.monotonic``."""
        self._resume_at = max(self._resume_at, until)

    def _admit(self) -> None:
        while self._waiting and self.num_running < self.limit:
            now = time.monotonic()
            pause = max(self._resume_at, self._pace.due) - now
            if pause > 0:
                if self._timer is None:
                    self._timer = asyncio.get_running_loop().call_later(pause, self._resume)
                return
            turn, num_tokens = self._waiting.popleft()
            if not turn.done():  # else it was given up while it waited
                self.num_running += 1
                self._pace.spend(num_tokens, now)
                turn.set_result(None)

    def _resume(self) -> None:
        self._timer = None
        self._admit()
