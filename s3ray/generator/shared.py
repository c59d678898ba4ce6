"""The pool of a campaign: one set of engines for the stages of many runs."""

from collections.abc import Callable, Mapping

from s3ray.config import RunConfig
from s3ray.generator.plan import Plan
from s3ray.generator.pool import Emit, GeneratorPool
from s3ray.generator.recipe import Recipe
from s3ray.generator.seat import Seat, SeatState
from s3ray.generator.sharing import SharedSource


class SharedPool(GeneratorPool):
    """A pool whose source is open: stages come and go, and devices may be wanted back for training.

    ``num_allowed`` says how many engines may hold devices at this moment. One that is too many gets no more requests,
    answers what it has, and leaves; it is back when there is room again.
    """

    min_ahead = 0  # what is drawn far ahead of need could not make way for a stage that is more urgent

    def __init__(
        self,
        config: RunConfig,
        recipes: Mapping[str, Recipe],
        plan: Plan,
        source: SharedSource,
        *,
        num_allowed: Callable[[], int],
        emit: Emit,
    ) -> None:
        super().__init__(config, recipes, plan, emit=emit)
        self._source = source
        self._num_allowed = num_allowed
        self._leaving: list[Seat] = []

    @property
    def num_holding(self) -> int:
        """Engines that hold devices at this moment."""
        return len(self._running())

    def _tend(self) -> None:
        for indexes in self._source.take_withdrawn():
            self._dispatcher.withdraw(indexes)
        self._make_room()
        super()._tend()

    def _may_start(self) -> bool:
        return self._source.num_customers > 0 and self.num_holding < self._num_allowed()

    def _make_room(self) -> None:
        """Let engines go that are too many, those with the least to do first."""
        running = self._running()
        self._leaving = [seat for seat in self._leaving if seat in running]
        num_many = len(running) - len(self._leaving) - self._num_allowed()
        others = [seat for seat in running if seat not in self._leaving]
        others.sort(key=lambda seat: (seat.state is SeatState.READY, self._dispatcher.num_in_flight(seat.engine)))
        self._leaving += others[: max(0, num_many)]
        for seat in self._leaving:
            seat.has_gap = True  # it gets nothing new
        self._stop([seat for seat in self._leaving if not self._dispatcher.num_in_flight(seat.engine)])
