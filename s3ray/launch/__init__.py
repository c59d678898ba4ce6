"""From a job file to a run: checks, start, re-reading of kept generations, and submission to a cluster."""
