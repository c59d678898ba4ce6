"""Sending a job to a Ray cluster: what goes along, under which name, and what its end means."""
