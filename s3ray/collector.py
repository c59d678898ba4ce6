"""Python's collector of garbage, for processes that millions of short-lived values pass through."""

import gc


def collect_rarely() -> None:
    """Let Python look for cycles less often in this process.

    Requests and outcomes have no cycles, and by default the search takes a quarter of the time that the driver spends
    on a request. What is there already is not looked at again.
    """
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
