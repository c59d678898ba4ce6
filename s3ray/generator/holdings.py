"""Who holds what of a cluster at one moment, in words. Pure: ``cluster`` asks Ray, this says it."""

from collections.abc import Mapping
from dataclasses import dataclass

_LISTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """One kind of device (``resource`` GPU or CPU): how many there are, how many are free, which groups hold some."""

    resource: str
    total: float
    free: float
    by_group: Mapping[str, float]

    @property
    def held(self) -> float:
        """How many are not free."""
        return max(0.0, self.total - self.free)

    def in_words(self) -> str:
        """``3 of 4 GPU are held (2 by s3ray job engine-0, 1 by others)``."""
        largest = sorted(self.by_group.items(), key=lambda item: (-item[1], item[0]))
        listed = [f"{num:g} by {name}" for name, num in largest[:_LISTED]]
        if rest := sum(num for _, num in largest[_LISTED:]):
            listed.append(f"{rest:g} by {len(largest) - _LISTED} more groups")
        outside = self.held - sum(self.by_group.values())
        if outside > 1e-6:
            listed.append(f"{outside:g} by actors and tasks outside any group")
        return f"{self.held:g} of {self.total:g} {self.resource} are held ({', '.join(listed)})"
