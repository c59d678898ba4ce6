"""A search for faster settings that is over is read from its folder: nothing is started, as there is no Ray here."""

from pathlib import Path

import pytest
from rich.console import Console

from s3ray.bench.search import OWN, Candidate
from s3ray.bench.trials import Start, trial_name, trial_of, write_part
from s3ray.bench.tune import Tuner
from s3ray.config.job import RunConfig
from s3ray.config.load import parse_yaml, validate
from s3ray.errors import InputError
from s3ray.launch.preflight import check_job
from s3ray.placement.plan import NodeFacts, in_words
from s3ray.storage.run_folder import RunStore
from tests.bench import phases
from tests.bench.test_run import S3
from tests.bench.test_trials import cell

NODES = [NodeFacts(node_id="here", num_cpus=2, num_gpus=0)]


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    job = check_job(validate(RunConfig, parse_yaml(S3)))
    store = RunStore(tmp_path)
    own = trial_of(OWN, [cell(100.0)] * 3)
    twice = 2 * own.finding(own).max_num_seqs
    more = Candidate(
        axis="sequences at once",
        setting=f"max_num_seqs {twice}",
        changes={"generator.max_num_seqs": twice},
    )
    slower = trial_of(more, [cell(90.0)])
    start = Start(
        settings=job.config.model_dump(mode="json"),
        cluster=in_words(NODES),
        asked=None,
        requests=1000,
        total=4000,
        prompt_notes={},
        calibration=None,
        identity=phases.IDENTITY,
        notes=(),
    )
    write_part(store, "start.json", start)
    write_part(store, trial_name(OWN), own)
    write_part(store, trial_name(more), slower)
    tuning = Tuner(job, store, Console(quiet=True), NODES, requests=None).run(lossy=False)
    assert tuning.trials == (own, slower)
    assert not tuning.gains
    with pytest.raises(InputError, match="holds a search with --requests was 1000, is 8"):
        Tuner(job, store, Console(quiet=True), NODES, requests=8).run(lossy=False)
