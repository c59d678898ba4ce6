"""A log line says where it comes from, in every process of a run."""

import subprocess
import sys

PROGRAM = """
import logging, sys
from s3ray.telemetry.logs import log_from, move_log, place_text
log_from(run="imdb", engine="engine-3", phase="start")
logging.getLogger("s3ray.generator.actor").info("ready")
move_log(round=2, phase="generate")
logging.getLogger("somebody.else").warning("slow")
logging.getLogger("somebody.else").info("chatter")
"""


def test_every_line_names_run_round_phase_and_engine() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()
    assert first.endswith("INFO run=imdb phase=start engine=engine-3 s3ray.generator.actor: ready")
    assert second.endswith("WARNING run=imdb round=2 phase=generate engine=engine-3 somebody.else: slow")
