"""Resources: what an app uses of the outside and its successor inherits open.

A tap, a socket or a card belongs to the engine under a key and is lent to the app of
one name at a time, so that a change of the network neither closes it nor opens it
twice. Imports app, memory and errors.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeVar, cast

from snabb_py.engine.app import Resource
from snabb_py.engine.memory import Pool
from snabb_py.errors import ConfigError

R = TypeVar("R", bound=Resource)


class Right:
    """A resource that is nothing but the right to something: one app has it."""

    def close(self) -> None:
        """Nothing to give up."""


@dataclass(eq=False)
class _Entry:
    resource: Resource
    shared: bool
    leases: "set[Lease]" = field(default_factory=set)


class Registry:
    """All resources of an engine by key.

    Args:
        pool: the engine's packets; None: apps that are lent to need none.

    `leaving` names the apps that the change being built takes away: what they have
    borrowed may go to others.
    """

    def __init__(self, pool: Pool | None) -> None:
        self.pool = pool.pool if pool else None
        self.memory = pool.memory if pool else None
        self.leaving: AbstractSet[str] = frozenset()
        self._entries: dict[str, _Entry] = {}

    def lease(self, owner: str, *, is_two_way: bool = True) -> "Lease":
        """Return what an app of this name may borrow with."""
        return Lease(self, owner, is_two_way=is_two_way)

    def borrow(
        self, lease: "Lease", key: str, make: Callable[[], R], *, shared: bool
    ) -> R:
        """Return the resource of this key, made now if nobody has it.

        Raises:
            ConfigError: another app of the network has it.
        """
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(make(), shared)
        for other in entry.leases:
            if shared or other.owner == lease.owner or other.owner in self.leaving:
                continue
            raise ConfigError(f'{key} is already used by app "{other.owner}"')
        entry.leases.add(lease)
        return cast("R", entry.resource)

    def release(self, lease: "Lease") -> None:
        """Give back all that a lease borrowed; what nobody else has is closed."""
        for key, entry in list(self._entries.items()):
            entry.leases.discard(lease)
            if not entry.leases:
                del self._entries[key]
                entry.resource.close()


class Lease:
    """One app instance's right to borrow; satisfies `app.Resources`."""

    def __init__(self, registry: Registry, owner: str, *, is_two_way: bool) -> None:
        self.registry = registry
        self.owner = owner
        self.is_two_way = is_two_way
        self.pool = registry.pool
        self.memory = registry.memory

    def borrow(self, key: str, make: Callable[[], R], *, shared: bool = False) -> R:
        """See `app.Resources.borrow`."""
        return self.registry.borrow(self, key, make, shared=shared)

    def release(self) -> None:
        """Give back all that was borrowed."""
        self.registry.release(self)
