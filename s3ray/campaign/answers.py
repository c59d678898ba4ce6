"""What the plots of a comparison answer, in a sentence or two beside each. Pure."""

from collections.abc import Sequence

from s3ray.campaign.grid import Campaign
from s3ray.campaign.intervals import excludes_zero
from s3ray.campaign.table import Row

_NUM_NAMED = 5


def scores(campaign: Campaign, rows: Sequence[Row]) -> str:
    """Which of one task's rows is best, and whom does the reference lead so that the interval excludes zero?"""
    best = max(rows, key=lambda row: row.mean)
    told = [f"Best in the mean: {best.name}, {best.mean:.3f}."] if len(rows) > 1 else []
    axis = campaign.compared_axis
    others = [row for row in rows if row.lead_interval is not None and row.cell[str(axis)] != campaign.reference]
    clear = [row for row in others if excludes_zero(row.lead_interval)]
    ahead, behind = ([row.name for row in clear if (row.lead_mean or 0) * sign > 0] for sign in (1, -1))
    unclear = [row.name for row in others if row not in clear]
    for words, names in (
        (f"{campaign.reference} is clearly ahead of", ahead),
        (f"{campaign.reference} is clearly behind", behind),
        ("Not clear either way:", unclear),
    ):
        if names:
            told.append(f"{words} {_listed(names)}.")
    if max(len(row.scores) for row in rows) == 1:
        told.append("With one seed each, what changes from seed to seed is in no interval.")
    return " ".join(told)


def costs(rows: Sequence[Row]) -> str:
    """What does the best cost, next to the cheapest? Of one task's rows, those whose cost is known."""
    known = [(row.device_s, row) for row in rows if row.device_s]
    if not known:
        return ""
    best_s, best = max(known, key=lambda pair: (pair[1].mean, -pair[0]))
    least_s, least = min(known, key=lambda pair: (pair[0], -pair[1].mean))
    if best is least:
        return f"The best is the cheapest too: {best.name}, {best_s:,.0f} device-seconds."
    return (
        f"The best, {best.name}, took {best_s:,.0f} device-seconds for {best.mean:.3f}; the cheapest, {least.name}, "
        f"{least_s:,.0f} for {least.mean:.3f}."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_NAMED} more" if len(names) > _NUM_NAMED else ""
    return f"{', '.join(names[:_NUM_NAMED])}{more}"
