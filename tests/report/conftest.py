"""The run folders that pages are made from are those of the monitor's tests."""

from tests.monitor.conftest import clock, finished

__all__ = ["clock", "finished"]
