r"""Apps written in Python.

Per packet, simple:

    class OnlyIpv6(PythonApp):
        inputs, outputs = Ports("rx"), Ports("tx")

        def packet(self, packet):       # "tx": on to that port; None: drop it
            return "tx" if packet.data[12:14] == b"\x86\xdd" else None

Per burst, several times as fast:

        def push(self):
            self.input["rx"].move(self.output["tx"])

Also `pull()` (bring packets in), `tick()` (1 kHz) and `close()`. Ports, counters and
arguments are declared as for any app; `self.count("drop-odd")` counts,
`self.new_packet` makes packets.

An exception isolates the app that raised it: its packets are dropped and counted
(`drop-app-failed`), everything else runs on; after a pause that doubles with each
failure a new instance takes its place. Python apps run on a worker of their own unless
told otherwise, because a thread may wait 5 ms for the GIL. Imports app, packet and the
extension.
"""

import traceback
from collections.abc import Callable
from typing import Any, ClassVar

from snabb_py._native import ffi, lib
from snabb_py.engine import counter
from snabb_py.engine.app import App
from snabb_py.engine.packet import Burst, Link, Owner, Packet

FIRST_PAUSE = 1.0  # seconds until a failed app is tried again
LONGEST_PAUSE = 60.0


class PythonApp(App):
    """The base of apps written in Python; see the module."""

    is_python: ClassVar[bool] = True

    #: Links by port, while the app runs.
    input: dict[str, Link]
    output: dict[str, Link]
    #: ns on CLOCK_MONOTONIC at the start of the breath.
    now: int = 0

    #: What calls the app.
    runner: "Runner"

    @classmethod
    def has(cls, operation: str) -> bool:
        """Return whether the class pulls, pushes, ticks."""
        if operation == "push":
            return hasattr(cls, "push") or hasattr(cls, "packet")
        return operation in ("pull", "tick") and hasattr(cls, operation)

    def count(self, name: str, n: int = 1) -> None:
        """Count under one of the class's `counters`."""
        self.runner.count(name, n)

    def new_packet(self, data: bytes) -> Packet | None:
        """Return a new packet of these bytes, or None when the pool is empty.

        Raises:
            ValueError: more than 66 KiB.
        """
        owner = self.runner.owner
        owner.check()
        data = bytes(memoryview(data))
        if len(data) > lib.PACKET_LARGE_SIZE:
            raise ValueError(f"{len(data)} bytes do not fit in a packet")
        pointer = lib.engine_packet_alloc(owner.freelist, len(data))
        if not pointer:
            return None
        ffi.memmove(pointer.data, data, len(data))
        owner.take(pointer)
        return Packet(owner, pointer)


def describe(error: BaseException) -> str:
    """Return an exception as text, whatever its own text does."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the app's own code
        return type(error).__name__


class Runner:
    """One Python app of a network through all its instances: calls it, catches it.

    The worker calls pull, push, tick, retire; the engine's main thread `supervise`s.
    `instance` goes from one to the other by a plain assignment.
    """

    def __init__(
        self,
        name: str,
        instance: PythonApp,
        app: Any,
        freelist: Any,
        remake: Callable[[], PythonApp],
    ) -> None:
        self.name = name
        self.instance: PythonApp | None = instance
        self.app = app
        self.owner = Owner(freelist)
        self.remake = remake
        self.handle = ffi.new_handle(self)
        names = type(instance).counters + counter.PYTHON_APP
        self._index = {name: i for i, name in enumerate(names)}
        self._ports: dict[int, tuple[list[str], list[str]]] = {}
        self._bound: tuple[int, PythonApp] | None = None
        self._pause = FIRST_PAUSE
        self._retry_at: float | None = None
        self._scratch = ffi.new("struct packet *[]", lib.LINK_CAPACITY)
        self.failure = ""
        self._unreported = False
        instance.runner = self

    def expect_ports(self, array: Any, inputs: list[str], outputs: list[str]) -> None:
        """Say what the ports are called once `app.input` is this array."""
        key = int(ffi.cast("uintptr_t", array))
        # Popped first: an address that is used again comes last, as the newest.
        self._ports.pop(key, None)
        self._ports[key] = (inputs, outputs)

    def count(self, name: str, n: int = 1) -> None:
        """Count under one of the app's names."""
        self.app.counters[self._index[name]] += n

    # -- on the worker's thread ------------------------------------------------

    def _bind(self, instance: PythonApp) -> None:
        """Give the instance its links, if they are not those it has."""
        app = self.app
        key = int(ffi.cast("uintptr_t", app.input))
        instance.now = app.worker.now
        if self._bound == (key, instance):
            return
        inputs, outputs = self._ports[key]
        # What was announced before this one belongs to plans that are gone. Plans that
        # were taken back stay until a later one is taken.
        for old in list(self._ports):
            if old == key:
                break
            del self._ports[old]
        instance.input = {
            name: Link(self.owner, app.input[i])
            for i, name in enumerate(inputs)
            if app.input[i]
        }
        instance.output = {
            name: Link(self.owner, app.output[i])
            for i, name in enumerate(outputs)
            if app.output[i]
        }
        self._bound = (key, instance)

    def _cursors(self) -> int:
        app = self.app
        counts = [k.counters.rxpackets for k in app.input[0 : app.ninput] if k]
        counts += [k.counters.txpackets for k in app.output[0 : app.noutput] if k]
        return sum(map(int, counts))

    def call(self, operation: str) -> int:
        """Run one operation of the app; return how many packets it moved."""
        instance = self.instance
        if instance is None:
            return self._discard_inputs()
        before = self._cursors()
        try:
            self._bind(instance)
            if operation == "push" and not hasattr(instance, "push"):
                self._push_packets(instance)
            else:
                getattr(instance, operation)()
        except BaseException as error:  # noqa: BLE001 - nothing may reach the worker
            self._fail(error)
        return int(self._cursors() - before)

    def _push_packets(self, instance: Any) -> None:
        """Call `packet` for each packet; what goes to one port goes there at once."""
        for link in instance.input.values():
            burst = link.receive_burst()
            outputs = {name: k.pointer for name, k in instance.output.items()}
            ports: dict[str, list[Any]] = {name: [] for name in outputs}
            dropped = 0
            give = self.owner.give
            for packet in burst:
                port = instance.packet(packet)
                if port is None:
                    packet.free()
                    dropped += 1
                else:
                    ports[port].append(packet.pointer)
            for port, pointers in ports.items():
                array = ffi.new("struct packet *[]", max(len(pointers), 1))
                n = 0
                try:
                    for pointer in pointers:
                        give(pointer)  # raises if the app has given it away itself
                        array[n] = pointer
                        n += 1
                finally:
                    lib.engine_link_transmit(outputs[port], array, n)
            if dropped:
                self.count("drop-app", dropped)

    def _discard_inputs(self) -> int:
        links = [link for link in self.app.input[0 : self.app.ninput] if link]
        n = sum(int(lib.engine_link_discard(k, lib.LINK_CAPACITY)) for k in links)
        self.count("drop-app-failed", n)
        return n

    def _fail(self, error: BaseException) -> None:
        self.instance = None
        self.count("drop-app-failed", self.owner.free_all())
        self.count("app-failures")
        last = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" ({last[0].filename}:{last[0].lineno})" if last else ""
        self.failure = f"{describe(error)}{where}"
        self._unreported = True

    def retire(self) -> int:
        """Free what the app owns."""
        return self.owner.end()

    # -- on the main thread ----------------------------------------------------

    def supervise(self, now: float) -> str | None:
        """Put a new instance in a failed one's place when its pause is over.

        Args:
            now: seconds, monotonic.

        Returns:
            A line for the user when the app has failed, else None.
        """
        if self.instance is not None:
            return None
        if self._unreported:
            self._unreported = False
            self._retry_at = now + self._pause
            line = f"app {self.name} failed: {self.failure}; again in {self._pause:g} s"
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            return line
        if self._retry_at is None or now < self._retry_at:
            return None
        self._retry_at = None
        try:
            instance = self.remake()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the app's own code
            self.failure = describe(error)
            self._unreported = True
            return None
        instance.runner = self
        self.count("app-restarts")
        self.instance = instance
        return None


def ops_of(cls: type[PythonApp]) -> Any:
    """Return a new `struct app_ops *` for a class; the caller keeps it alive."""
    ops = ffi.new("struct app_ops *")
    if cls.has("pull"):
        ops.pull = lib.python_app_pull_step
    if cls.has("push"):
        ops.push = lib.python_app_push_step
    if cls.has("tick"):
        ops.tick = lib.python_app_tick_step
    ops.retire = lib.python_app_retire_step
    ops.held = lib.python_app_held_step
    return ops


def _runner(app: Any) -> Runner:
    runner: Runner = ffi.from_handle(app.state)
    return runner


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_app_pull(app: Any) -> int:
    """Run `pull`; called by the worker, as the others below."""
    runner = _runner(app)
    return 0 if runner.instance is None else runner.call("pull")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_app_push(app: Any) -> int:
    """Run `push` or `packet`."""
    return _runner(app).call("push")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_app_tick(app: Any) -> None:
    """Run `tick`."""
    runner = _runner(app)
    if runner.instance is not None:
        runner.call("tick")


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_app_retire(app: Any) -> int:
    """Free what the app owns."""
    return _runner(app).retire()


@ffi.def_extern()  # type: ignore[untyped-decorator]
def python_app_held(app: Any) -> int:
    """Count what the app owns."""
    return len(_runner(app).owner.packets)


__all__ = ["Burst", "Link", "Packet", "PythonApp", "Runner", "ops_of"]
