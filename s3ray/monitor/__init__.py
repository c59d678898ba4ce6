"""How a run stands and what it came to, folded from its events: views, time accounts, metrics, terminal, Prometheus."""
