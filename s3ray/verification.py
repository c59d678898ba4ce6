"""Before the first example: the generator judges gold rows, so that its verdicts on what it writes can be set right."""

from collections.abc import Sequence

from s3ray.curation.calibrate import Calibration, calibrate
from s3ray.methods import VERDICTS
from s3ray.stage import StagePlan
from s3ray.strategies.base import RoundContext
from s3ray.strategies.requests import make_request
from s3ray.tasks import Task
from s3ray.types import GenerationRequest, Outcome, Rejection, RejectionReason

"""In round 0: what ``Calibration.as_dict`` says, or null where gold has too few rows of a label."""


def verdict_stage(context: RoundContext, num: int) -> StagePlan:
    """Ask for the labels of the first ``num`` rows of the extrapolation part, whose order is random."""
    requests = (
        make_request(context, VERDICTS, index, template="verify", label=row.label, given=row.fields)
        for index, row in enumerate(context.gold[:num])
    )
    return StagePlan(name=VERDICTS, requests=requests)


class VerdictJudge:
    """Keeps what the generator says of gold rows."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._verdicts: list[Sequence[float]] = []
        self._truth: list[int] = []

    def judge(self, request: GenerationRequest, outcome: Outcome) -> Rejection | None:
        """Keep a verdict; where the generator named no label there is none."""
        if not outcome.verdict:
            return Rejection(reason=RejectionReason.UNPARSABLE, detail=outcome.detail)
        self._verdicts.append(outcome.verdict)
        self._truth.append(self._task.labels.index(request.label or ""))
        return None

    def calibration(self) -> Calibration | None:
        """What was learned; None: there were too few verdicts on rows of a label."""
        return calibrate(self._verdicts, self._truth, len(self._task.labels))
