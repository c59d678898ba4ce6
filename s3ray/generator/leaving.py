"""How engines make way for a training: asked all at once, waited for with a limit."""

from collections.abc import Sequence

import ray

from s3ray.generator.seat import Seat

_STOP_S = 20.0
_SLEEP_S = 120.0


def close_in_time(seats: Sequence[Seat]) -> None:
    """Ask engines to stop; those that have not after a while are killed by their seat."""
    answers_in_time([seat.begin_close() for seat in seats], _STOP_S)


def sleep_in_time(seats: Sequence[Seat], level: int) -> list[Seat]:
    """Let engines sleep; returns those that do. The others died of it or take too long."""
    calls = {seat.begin_sleep(level): seat for seat in seats}
    return [calls[call] for call in answers_in_time(list(calls), _SLEEP_S) if _is_good(call)]


def answers_in_time(calls: Sequence[ray.ObjectRef], limit_s: float) -> list[ray.ObjectRef]:
    """Those of ``calls`` that have ended, well or not, within so many seconds."""
    done: list[ray.ObjectRef] = []
    if calls:
        done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=limit_s)
    return done


def _is_good(call: ray.ObjectRef) -> bool:
    try:
        ray.get(call)
    except ray.exceptions.RayError:
        return False
    return True
