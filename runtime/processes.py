"""The processes of a run whose devices belong to several, and what they agree on.

Each runs the same program. What they decide on the host must be the same in all of them: a plan
that follows from free memory, when a run saves a point, from which point it goes on. They tell each
other through the service that `jax.distributed.initialize` has started, which takes no device.

Questions are numbered in each process, so all of them must ask the same questions in one order.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Callable, Iterable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Sharding

from metagrad.runtime import jax_internals

_MILLISECONDS = 3_600_000
"""How long an answer is waited for. A process that has died is noticed by JAX long before."""

_asked: collections.Counter[tuple[int, ...]] = collections.Counter()


def devices_of(sharding: Sharding) -> set[Any]:
    """The devices of a sharding.

    One on an abstract mesh, as the type of a traced array has it on `Explicit` axes, does not say
    which. It is taken to be over the first ones, as meshes usually are.
    """
    if isinstance(getattr(sharding, "mesh", None), AbstractMesh):
        return set(jax.devices()[: sharding.num_devices])
    return sharding.device_set


class Processes:
    """Several processes, this one among them.

    Attributes:
      indices: of all of them (`jax.process_index`), in ascending order.
    """

    def __init__(self, indices: Iterable[int]):
        self.indices = tuple(sorted(indices))

    @classmethod
    def of(cls, shardings: Iterable[Sharding]) -> Processes | None:
        """Those to which the devices of some shardings belong; None if that is one."""
        devices: set[Any] = {device for each in shardings for device in devices_of(each)}
        indices = {device.process_index for device in devices}
        return cls(indices) if len(indices) > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that decides where one has to."""
        return jax.process_index() == self.indices[0]

    def answers(self, mine: Any) -> list[Any]:
        """What each process says, in the order of `indices`, once all have said it.

        Args:
          mine: anything that JSON can say.
        """
        topic = self.topic()
        topic.say(jax.process_index(), json.dumps(mine))
        return [json.loads(topic.hear(index)) for index in self.indices]

    def agreed(self, mine: Any, choose: Callable[[list[Any]], Any]) -> Any:
        """What `choose` takes of the answers of all."""
        return choose(self.answers(mine))

    def topic(self) -> Topic:
        """Names under which the processes can tell each other something: the next ones."""
        _asked[self.indices] += 1
        group = "-".join(map(str, self.indices))
        return Topic(f"metagrad/{group}/{_asked[self.indices]}")


class Topic:
    """A place for messages, which all processes know by the same name."""

    def __init__(self, name: str):
        self._name, self._client = name, jax_internals.coordination_client()

    def say(self, key: Any, message: str) -> None:
        """Leaves a message under a key that has none."""
        self._client.key_value_set(f"{self._name}/{key}", message)

    def hear(self, key: Any) -> str:
        """The message under a key, when it is there."""
        return self._client.blocking_key_value_get(f"{self._name}/{key}", _MILLISECONDS)

    def count(self, key: Any) -> int:
        """How many messages there are under keys that begin with `key` and a slash."""
        return len(self._client.key_value_dir_get(f"{self._name}/{key}/"))


def agreed(shardings: Iterable[Sharding], mine: Any, choose: Callable[[list[Any]], Any]) -> Any:
    """`Processes.agreed` of the processes of some shardings; `mine` if that is one."""
    processes = Processes.of(shardings)
    return mine if processes is None else processes.agreed(mine, choose)
