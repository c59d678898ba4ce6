"""From a job file to a run: checks, start, parsing of stored generations again, and submission to a cluster."""
