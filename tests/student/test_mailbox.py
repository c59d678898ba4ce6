"""The mailbox between a driver and its train workers: all workers get the same students in the same order."""

import asyncio
from collections.abc import Awaitable

from s3ray.student.mailbox import Mailbox


async def is_waiting(task: "asyncio.Task[object]") -> bool:
    """Whether a task still waits when all others have done what they can."""
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


def begun(call: "Awaitable[object]") -> "asyncio.Task[object]":
    return asyncio.ensure_future(call)


def test_workers_get_one_student_after_another_and_a_slow_one_gets_none_twice() -> None:
    async def play() -> None:
        box = Mailbox()
        first = begun(box.ask(0, b"a"))
        assert await box.take("start", 0) == (0, b"a")
        assert await box.take("start", 0) == (0, b"a"), "the other worker"
        early = begun(box.take("start", 1))
        assert await is_waiting(early), "a worker that is done before the first one has answered"
        await box.answer(0, b"A")
        assert await first == b"A"
        assert await is_waiting(early)
        second = begun(box.ask(1, b"b"))
        assert await early == (1, b"b")
        await box.answer(1, b"B")
        assert await second == b"B"
        assert await box.take("start", 1) == (1, b"b"), "the slow one gets what the other one had"

    asyncio.run(play())


def test_workers_that_are_started_again_get_the_student_that_is_not_answered() -> None:
    async def play() -> None:
        box = Mailbox()
        asked = begun(box.ask(7, b"a"))
        assert await box.take("start", 0) == (7, b"a")
        left_over = begun(box.take("start", 1))
        assert await box.take("again", 0) == (7, b"a")
        assert await left_over is None, "one of the earlier start goes home"
        await box.answer(7, b"late, from the earlier start")
        assert await asked == b"late, from the earlier start"
        assert await box.take("again", 0) == (7, b"a"), "its companion must do the same, or they wait for each other"
        await box.answer(7, b"again")
        second = begun(box.ask(8, b"b"))
        assert await box.take("again", 1) == (8, b"b")
        await box.answer(8, b"B")
        assert await second == b"B"

    asyncio.run(play())


def test_closing_sends_all_home_whether_they_wait_or_come_later() -> None:
    async def play() -> None:
        box = Mailbox()
        waiting = begun(box.take("start", 0))
        assert await is_waiting(waiting)
        await box.close()
        assert await waiting is None
        assert await box.take("start", 0) is None
        assert await box.take("later", 0) is None

    asyncio.run(play())
