"""How many devices generate and how many train, while many runs want both. Pure: facts in, a number out.

Training goes before: it ends soon, and what it ends is the next round's generation. But engines that leave must be
loaded again, so they keep the part of the devices that generation has cost so far, and only what they have beyond that
makes way and comes back.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """What there is and what each takes: GPUs, or on CPUs the train workers' places alone.

    Where ``is_split``, the engines have devices of their own, and only the ``num_trainings`` count.
    """

    num_devices: int
    per_engine: float
    per_training: float
    num_engines: int
    num_trainings: int
    is_split: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Who wants what at a moment: stages under way, trainings that wait, trainings under way."""

    num_stages: int
    num_waiting: int
    num_training: int


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
        wanted = min(demand.num_waiting + demand.num_training, devices.num_trainings)
        beside = int((devices.num_devices - wanted * devices.per_training) // devices.per_engine)
        if demand.num_stages:
            most = devices.num_devices - devices.per_training * bool(wanted)
            beside = max(beside, min(self._own_part(), int(most // devices.per_engine)))
        return max(0, min(beside, devices.num_engines))

    def may_train(self, num_training: int, num_engines: int) -> bool:
        """Whether one more student finds devices beside so many trainings and so many engines."""
        devices = self._devices
        if num_training >= devices.num_trainings:
            return False
        taken = num_training * devices.per_training + num_engines * devices.per_engine
        return devices.is_split or devices.num_devices - taken >= devices.per_training

    def _own_part(self) -> int:
        """Engines whose devices are to the others as a round's generation is to a student's training, in cost."""
        (generate_s, num_rounds), (train_s, num_students) = self._cost["generate"], self._cost["train"]
        if not (num_rounds and num_students):
            return max(1, int(self._devices.num_devices / self._devices.per_engine / 2))
        generate, train = generate_s / num_rounds, train_s / num_students
        return max(1, round(self._devices.num_devices / self._devices.per_engine * generate / (generate + train)))
