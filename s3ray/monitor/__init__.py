"""The state and the results of a run, computed from its events: views, time, metrics, terminal, Prometheus."""
