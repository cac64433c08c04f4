"""App: the base of all app classes.

An app class declares its ports, counters and operations; an instance holds what one
app of a network was given. The engine makes instances while it builds a network
(nothing runs yet), then binds them to a `struct app` at a hand-over.

    class Police(App):
        inputs = Ports("rx")
        outputs = Ports("tx")
        counters = ("drop-policed",)
        ops = ffi.addressof(lib.police_ops)

        def __init__(self, rate_gbps: float) -> None:
            self.config = ffi.new("struct police_config *", {...})
            self.state = ffi.new("struct police_state *")

Ownership: `config` and `state` are cffi objects that the instance keeps alive; the
engine keeps the instance as long as a worker can reach it.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol, TypeVar

from snabb_py._native import ffi
from snabb_py.errors import ConfigError


class Ports:
    """The ports that an app class has on one side.

    Args:
        names: each is one port, in the order of `app.input` or `app.output`.
        optional: ports that may stay without a link (NULL in C); others must not.
        any_number: instead of names: one port or more, of whatever name, in natural
            order (tx2 before tx10).
    """

    def __init__(
        self, *names: str, optional: bool = False, any_number: bool = False
    ) -> None:
        self.names = names
        self.optional = optional
        self.any_number = any_number


class Resource(Protocol):
    """Something exclusive that outlives the app that uses it: a tap, a socket."""

    def close(self) -> None:
        """Give it up."""


R = TypeVar("R", bound=Resource)


class Resources(Protocol):
    """What an app borrows its resources from, see `engine.resources`."""

    #: `struct pool *`, for what must give packets back.
    pool: Any
    #: The memory that packets lie in, `engine.memory.Memory`: for devices to reach.
    memory: Any
    #: The app has links at inputs and at outputs.
    is_two_way: bool

    def borrow(self, key: str, make: Callable[[], R], *, shared: bool = False) -> R:
        """Return the resource of this key, made now if nobody has it yet.

        It stays until no app of the network has borrowed it: an app's successor
        inherits it open. Without `shared`, only one app may have it.
        """
        ...


class App:
    """The base of app classes; see the module for what a class declares."""

    inputs: ClassVar[Ports] = Ports()
    outputs: ClassVar[Ports] = Ports()
    #: Names of the app's counters, in the order of its C enum.
    counters: ClassVar[tuple[str, ...]] = ()
    #: The app can take new arguments while it runs: same state, new config.
    reconfigurable: ClassVar[bool] = False
    #: The app runs Python code and gets a worker of its own by default.
    is_python: ClassVar[bool] = False
    #: What pull brings comes from within the network, another worker or a card in it,
    #: not from outside: it goes on while the network drains.
    is_internal: ClassVar[bool] = False
    #: `const struct app_ops *`
    ops: Any = ffi.NULL
    #: `const void *`, immutable once given to the engine.
    config: Any = ffi.NULL
    #: `void *`, the app's own.
    state: Any = ffi.NULL

    @classmethod
    def has(cls, operation: str) -> bool:
        """Return whether the class pulls, pushes, ticks, arms."""
        return bool(cls.ops) and bool(getattr(cls.ops, operation))

    def open(self, resources: Resources) -> None:
        """Get what the app needs of the machine; called while the network is built.

        Raises:
            SnabbError: it cannot be had; the running network stays as it is.
        """

    def adopt(self, old: "App") -> None:
        """Take the running app's state over (`reconfigurable` classes)."""
        self.state = old.state

    def close(self) -> None:
        """Give up what `open` got, resources aside; the worker is done with the app."""

    @property
    def unfinished(self) -> int:
        """Packets that the app has taken and cannot deliver; its worker is paused."""
        return 0

    @property
    def outside(self) -> str:
        """What the app joins the network to, in the user's words; "": nothing."""
        return ""

    def statistics(self) -> dict[str, int]:
        """Return what a device behind the app has counted by itself; else nothing."""
        return {}

    @property
    def mode(self) -> str:
        """What and how it reaches, for the user; "": there is nothing to be said."""
        return ""

    @property
    def failure(self) -> str:
        """Why the app cannot do its work, or could not at its end; "": it can."""
        return ""

    def supervise(self) -> str | None:
        """Look after the outside, a few times a second, away from the worker.

        Returns a line for the user when something has changed, else None.
        """
        return None


class FiniteSource(App):
    """The base of apps whose packets come to an end."""

    @property
    def is_done(self) -> bool:
        """Whether all packets have been sent."""
        raise NotImplementedError

    @property
    def sending_ns(self) -> float:
        """How long its packets took so far, the last ones' own time too; 0: unknown.

        Where they went at once it is what their rate gives them.
        """
        return 0


def sending_ns(elapsed_ns: int, before: int, packets: int) -> float:
    """Return what packets took, of what they took until the last ones began.

    Args:
        elapsed_ns: from the first packets to the last ones.
        before: packets without the last ones.
        packets: all.

    Returns:
        ns; 0: there are no packets but the last ones, and nobody knows.
    """
    return elapsed_ns * packets / before if before else 0


def plain(number: float) -> str:
    """Return a number as people write it: 4294967296, not 4.29497e+09."""
    is_whole = isinstance(number, int) or number.is_integer()
    return str(int(number)) if is_whole else f"{number:.15g}"


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse an argument out of range.

    Raises:
        ConfigError: value is not within low..high, both included.
    """
    if not low <= value <= high:
        numbers = map(plain, (value, low, high))
        raise ConfigError("{}: {} is not within {} to {}".format(name, *numbers))
