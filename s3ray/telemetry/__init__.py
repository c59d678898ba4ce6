"""Events of a run (the truth that all views are made from), log lines, and the version of the code."""
