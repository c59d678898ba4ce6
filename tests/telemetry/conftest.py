"""The clock of events is that of the monitor's tests."""

from tests.monitor.conftest import clock

__all__ = ["clock"]
