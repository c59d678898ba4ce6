"""How each documented command is run by the tests. A command that fits no rule fails them.

Commands run as they stand, in a world of their own (``world``). What is too large for a test is made small by options
at their end; what lies elsewhere than in that world is moved by ``PLACES``; and programs that belong to clusters which
are not here have stand-ins that note their arguments down, for ``checks`` to compare with what Kubernetes, Slurm, AWS
and Ray take.
"""

import re
from dataclasses import dataclass

# Fake engines and a student of two layers, of the sizes that a test bears.
_STUDENT = (
    "student.model=$BERT",
    "student.preset=null",
    "student.workers=1",
    "student.min_workers=null",
    "student.epochs=1",
    "student.min_steps=0",
    "student.max_length=32",
)
_MODELS = (
    "generator.engine=fake",
    "generator.engines=2",
    "generator.min_engines=null",
    "generator.tensor_parallel=1",
    "placement.elastic=false",
    *_STUDENT,
)
_SIZES = (
    "gold.extrapolate=24",
    "gold.select=12",
    "strategy.seed_examples=16",
    "strategy.rows=24",
    "strategy.reasons_per_label=4",
)
# A training on Ray costs more than all else: what is submitted has no round after the seed set.
_ONE_ROUND = "strategy.rounds=1"
_NO_ROUND = ("strategy.rounds=0", "strategy.rows=null")
_TASK = ("task=review_sentences", "gold.test=20")  # its data come with the package


def _sets(*fields: str, prefix: str = "") -> str:
    return "".join(f" --set {prefix}{field}" for field in fields)


SMALL_JOB = _sets(*_MODELS, *_SIZES, _ONE_ROUND, *_TASK)
SEED_JOB = _sets(*_MODELS, *_SIZES, *_NO_ROUND, *_TASK)
SEED_OWN = _sets(*_MODELS, *_SIZES, *_NO_ROUND, "generator.prompt_form=completion")
SMALL_OWN = _sets(*_MODELS, *_SIZES, "generator.prompt_form=completion")
SMALL_CHAT = _sets(*_MODELS, *_SIZES)
SMALL_FAKE = _sets("student.model=$BERT", "student.max_length=32", *_NO_ROUND)
SMALL_GRID = _sets("seeds=[0]") + _sets(*_MODELS, *_SIZES, _ONE_ROUND, *_TASK, prefix="job.")
SMALL_BENCH = f"{SMALL_JOB} --requests 32 --prompts seed --repeat 1"
# Pages about a run, not about a cluster, are followed without Ray, which takes a fifth of the CPU time.
LOCAL = " --local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Commands that match ``pattern`` as a whole run with ``options`` at their end; some need a Ray cluster."""

    pattern: str
    options: str = ""
    needs_ray: bool = False


_S3RAY = r"(?:\.venv/bin/)?s3ray"

RULES = (
    # s3ray itself
    Rule(pattern=rf"{_S3RAY} init .*"),
    Rule(pattern=rf"{_S3RAY} plan reviews-job\.yaml", options=SMALL_OWN),
    Rule(pattern=rf"{_S3RAY} plan reviews-gpu\.yaml", options=SMALL_CHAT),
    Rule(pattern=rf"{_S3RAY} plan claims-job\.yaml", options=_sets(*_MODELS, "cluster.address=local")),
    Rule(pattern=rf"PYTHONPATH=\. {_S3RAY} plan claims-own\.yaml", options=_sets(*_STUDENT, "cluster.address=local")),
    Rule(pattern=rf"{_S3RAY} plan jobs/quickstart\.yaml", options=SMALL_JOB),
    Rule(pattern=rf"{_S3RAY} plan jobs/.*", options=SEED_JOB),
    Rule(pattern=r"\.venv/bin/s3ray run reviews-job\.yaml", options=SEED_OWN + LOCAL),
    Rule(pattern=r"s3ray run reviews-job\.yaml", options=SMALL_OWN + LOCAL),  # the tutorial's
    Rule(pattern=rf"{_S3RAY} run jobs/\S+ --local --out (/shared|s3:/|runs/gpu-8).*", options=SEED_JOB),
    Rule(pattern=rf"{_S3RAY} run jobs/quickstart\.yaml --local .*", options=SMALL_JOB),
    Rule(pattern=rf"{_S3RAY} run jobs/quickstart\.yaml( --set .*)?", options=SMALL_JOB + LOCAL),
    Rule(pattern=rf"{_S3RAY} run jobs/fake\.yaml --local .*", options=SMALL_FAKE),
    Rule(pattern=rf"{_S3RAY} run jobs/.*", options=SEED_JOB, needs_ray=True),
    Rule(pattern=rf"{_S3RAY} submit jobs/fake\.yaml .*", options=SMALL_FAKE, needs_ray=True),
    Rule(pattern=rf"{_S3RAY} submit jobs/.*", options=SEED_JOB, needs_ray=True),
    Rule(pattern=rf"{_S3RAY} compare jobs/.*", options=SMALL_GRID, needs_ray=True),
    Rule(
        pattern=rf"{_S3RAY} bench jobs/.*",
        options=SMALL_JOB + " --requests 32 --prompts seed --repeat 1",
        needs_ray=True,
    ),
    Rule(pattern=rf"{_S3RAY} (bench-compare|status|watch|report|audit|export|reparse) .*"),
    # Ray's own way to send a job, which ends with a command of s3ray
    Rule(pattern=r"ray job submit .* -- s3ray run .*", options=SEED_JOB, needs_ray=True),
    # Stand-ins: make tells what it would do; the others note what they are asked for.
    Rule(pattern=r"(?:S3RAY_EXTRA=gpu )?make [\w./-]+"),
    Rule(pattern=r"(?:\.venv/bin/)?ray (up|down|dashboard) .*"),
    Rule(pattern=r"\.venv/bin/ray get-auth-token --generate"),
    Rule(pattern=r"(kubectl|docker|aws|sbatch|pip) .*"),
    Rule(pattern=r"tail -f s3ray-\*\.log"),
    Rule(pattern=r"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=\"\$\(kubectl .*\)\""),
    # Many nodes on this machine, for real
    Rule(pattern=r"cluster/local\.sh (3|stop)", needs_ray=True),
    Rule(pattern=r'eval "\$\(cluster/local\.sh env\)"', needs_ray=True),
    Rule(pattern=r"until grep -qs .*; do sleep 0\.5; done"),
    Rule(pattern=r"read -r node _ < .*"),
    Rule(pattern=r'kill -9 "\$node"'),
    Rule(pattern=r"cmp runs/.*"),
    # The shell
    Rule(pattern=r"(export|unset) (RAY_AUTH_MODE|S3RAY_LOCAL_GPUS)(=\w+)?"),
    Rule(pattern=r"source \.venv/bin/activate"),
    Rule(pattern=r"du -sh runs/\*"),
    Rule(pattern=r"python \w+\.py"),
    Rule(pattern=r"OWN_(STRATEGY|ENGINE)=[\w.:]+ \.venv/bin/python -m pytest [\w/. -]+"),
)

PLACES = {
    "http://head:8265": "$DASHBOARD",
    "http://HEAD:8265": "$DASHBOARD",
    "http://127.0.0.1:8265": "$DASHBOARD",
    "/shared/": "$WORLD/shared/",
    "s3://BUCKET/": "$WORLD/bucket/",
    "jobs/my-task.yaml": "jobs/quickstart.yaml",
}
"""Where that is which pages name by a word of their own."""

RUN_BEFORE = {
    "README.md": ("s3ray run jobs/quickstart.yaml --local --out /shared/runs/quickstart",),
    "docs/audit.md": ("s3ray run jobs/quickstart.yaml",),
    "docs/storage.md": ("s3ray run jobs/quickstart.yaml",),
    "docs/submit.md": (
        "s3ray run jobs/my-task.yaml --local --out /shared/runs/my-task",
        "s3ray run jobs/quickstart.yaml --local --out /shared/runs/quickstart",
    ),
    "docs/clusters/aws-gcp.md": ("s3ray run jobs/gpu-8.yaml --local --out s3://BUCKET/runs/gpu-8",),
    "docs/clusters/kuberay.md": ("s3ray run jobs/gpu-8.yaml --local --out /shared/runs/gpu-8",),
    "docs/clusters/slurm.md": ("s3ray run jobs/gpu-8.yaml --local --out runs/gpu-8",),  # what the batch job does
}
"""Runs that exist before a page is followed.

The jobs that README.md, submit.md, aws-gcp.md and kuberay.md submit find their run finished, which saves a training
each. Runs submitted from their beginning are in local.md and in tests/cluster/test_submit.py.
"""


def rule_of(command: str) -> Rule | None:
    """The first rule that a command fits."""
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, command)), None)


def moved(command: str) -> str:
    """A command whose places are those of the world."""
    for place, here in PLACES.items():
        command = command.replace(place, here)
    return command
