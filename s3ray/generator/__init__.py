"""The pool of engines: pure decisions (ledger, dispatch, placement), engines, and the Ray code that runs them."""
