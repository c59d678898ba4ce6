"""The pool of engines: pure decisions (``scheduling``), engines (``engines``), and the Ray code that runs them."""
