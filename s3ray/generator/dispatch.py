"""How much work an engine gets. Pure: facts in, a number out."""

from s3ray.types import EngineLimits


def room(limits: EngineLimits, num_in_flight: int) -> int:
    """How many more requests an engine should hold.

    It holds what it can decode at once plus a quarter, so that it never waits for the driver, and no more, so that
    little is lost with it and the last requests of a stage are spread over all engines.
    """
    return max(0, limits.max_num_seqs + max(1, limits.max_num_seqs // 4) - num_in_flight)
