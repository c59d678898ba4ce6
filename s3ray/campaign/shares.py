"""How many devices generate and how many train, while many runs want both. Pure: facts in, a number out.

Training goes before: it ends soon, and what it ends is the next round's generation. But engines that leave must be
loaded again, so they keep the part of the devices that generation has cost so far, and only what they have beyond that
makes way and comes back. While there is nothing to generate, students take as many workers as find room.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What there is and what each takes: GPUs that engines and train workers pass to each other.

    A student takes ``min_workers`` to ``max_workers`` of ``per_worker`` devices. Where ``is_split``, the engines keep
    devices of their own, and ``num_trainings`` students train at once, with ``max_workers`` each.
    """

    num_devices: int
    per_engine: float
    per_worker: float
    num_engines: int
    min_workers: int
    max_workers: int
    is_split: bool
    num_trainings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Who wants and who has what at a moment: stages that want answers, students that wait, workers at training."""

    num_stages: int
    num_waiting: int
    num_training: int
    num_workers: int


class Shares:
    """Divides the devices of a campaign. ``learn`` what rounds and students cost, as it comes to be known."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._cost = {"generate": [0.0, 0], "train": [0.0, 0]}

    def learn(self, phase: str, device_s: float, num_done: int) -> None:
        """So many rounds were generated (``generate``) or students trained (``train``), in so many device-seconds."""
        self._cost[phase][0] += device_s
        self._cost[phase][1] += num_done

    def num_engines(self, demand: Demand) -> int:
        """Engines that may hold devices."""
        devices = self._devices
        if devices.is_split:
            return devices.num_engines
        each = devices.min_workers if demand.num_stages else devices.max_workers
        wanted = (demand.num_workers + demand.num_waiting * each) * devices.per_worker
        beside = int((devices.num_devices - wanted) // devices.per_engine)
        if demand.num_stages:
            # One student at least trains whatever the engines would like to keep.
            least = max(demand.num_workers, devices.min_workers * bool(demand.num_waiting)) * devices.per_worker
            beside = max(beside, min(self._own_part(), int((devices.num_devices - least) // devices.per_engine)))
        return max(0, min(beside, devices.num_engines))

    def num_workers(self, demand: Demand, num_engines: int, part: float) -> int:
        """Workers that the next student gets beside so many engines; 0: it waits on.

        ``part`` (0 to 1) is its part of the work of all students that wait.
        """
        devices = self._devices
        if devices.is_split:
            return devices.max_workers if demand.num_training < devices.num_trainings else 0
        room = self._room(demand, min(num_engines, self.num_engines(demand)))  # once those that are too many have left
        wanted = min(max(round(room * part), devices.min_workers), devices.max_workers)
        return wanted if wanted <= self._room(demand, num_engines) else 0

    def _room(self, demand: Demand, num_engines: int) -> int:
        """Train workers that would fit beside so many engines."""
        devices = self._devices
        free = devices.num_devices - demand.num_workers * devices.per_worker - num_engines * devices.per_engine
        return int(free // devices.per_worker)

    def _own_part(self) -> int:
        """Engines whose devices are to all as a round's generation is to a round, in cost."""
        most = self._devices.num_devices / self._devices.per_engine
        (generate_s, num_rounds), (train_s, num_students) = self._cost["generate"], self._cost["train"]
        if not (num_rounds and num_students):
            return max(1, int(most / 2))
        generate, train = generate_s / num_rounds, train_s / num_students
        return max(1, round(most * generate / (generate + train)))
