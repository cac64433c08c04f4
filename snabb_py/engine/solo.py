"""One native app by itself: its operations called from outside, its time set there.

    with Solo(Forward()) as solo:
        solo.send([b"..."])
        solo.breathe()
        assert solo.received() == [b"..."]

No thread and no engine: what happens is up to the arguments alone. Imports everything
that the app needs of an engine.
"""

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App
from snabb_py.engine.memory import Pool, new_aligned
from snabb_py.engine.resources import Registry

#: When the clock of an app begins, in ns: a machine that has run for a while.
BEGINNING = 10**12


class Solo:
    """An app, links on its named ports, a pool and a worker that stands still.

    Args:
        app: opened here, closed at the end.
        registry: to share resources with another one.
        pool: of another one, whose owner counts and closes it.
        owner: the app's name as far as resources are concerned.
        small, large: packets in the pool.
        burst: most packets that one pull brings in.
    """

    def __init__(  # noqa: PLR0913 - all have defaults
        self,
        app: App,
        *,
        registry: Registry | None = None,
        pool: Pool | None = None,
        owner: str = "app",
        small: int = 4096,
        large: int = 256,
        burst: int = lib.WORKER_BURST,
    ) -> None:
        self.app = app
        self.shared = pool is not None
        self.pool = pool or Pool(small, large, 1, huge=False)
        self.freelist: Any = new_aligned("struct freelist *")
        lib.freelist_init(self.freelist, self.pool.pool)
        self.registry = registry or Registry(self.pool)
        self.lease = self.registry.lease(owner)
        try:
            app.open(self.lease)
        except BaseException:
            self.lease.release()
            if not self.shared:
                self.pool.close()
            raise
        self.worker: Any = new_aligned("struct worker *")
        self.worker.freelist = self.freelist
        self.worker.burst = burst
        self.worker.now = BEGINNING
        self._link_counters: list[Any] = []
        self._counters: Any = ffi.new("uint64_t[]", max(len(app.counters), 1))
        self.inputs = [self._link() for _ in app.inputs.names]
        self.outputs = [self._link() for _ in app.outputs.names]
        self._arrays = [
            ffi.new("struct link *[]", links or [ffi.NULL])
            for links in (self.inputs, self.outputs)
        ]
        self.struct: Any = ffi.new(
            "struct app *",
            {
                "ops": app.ops,
                "state": app.state,
                "config": app.config,
                "input": self._arrays[0],
                "output": self._arrays[1],
                "ninput": len(self.inputs),
                "noutput": len(self.outputs),
                "counters": self._counters,
                "worker": self.worker,
            },
        )

    def _link(self) -> Any:
        link = new_aligned("struct link *")
        self._link_counters.append(ffi.new("struct link_counters *"))
        link.counters = self._link_counters[-1]
        link.freelist = self.freelist
        return link

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Retire and close the app; packets on links are freed."""
        if self.app.ops.retire:
            self.app.ops.retire(self.struct)
        self.app.close()
        self.lease.release()
        for link in (*self.inputs, *self.outputs):
            lib.engine_link_discard(link, lib.LINK_CAPACITY)
        lib.freelist_flush(self.freelist)
        if not self.shared:
            self.nfree = self.pool.free
            self.pool.close()

    @property
    def counters(self) -> dict[str, int]:
        """The app's counters that are not 0."""
        values = zip(self.app.counters, self._counters, strict=False)
        return {name: n for name, n in values if n}

    def send(self, frames: Iterable[bytes], port: int = 0, **metadata: int) -> None:
        """Put frames on an input, the first if none is told, with this metadata.

        Raises:
            MemoryError: the pool has run dry.
            ValueError: the input is full.
        """
        for frame in frames:
            packet = lib.engine_packet_alloc(self.freelist, len(frame))
            if not packet:
                raise MemoryError
            ffi.memmove(packet.data, frame, len(frame))
            for name, value in metadata.items():
                setattr(packet, name, value)
            sent = lib.engine_link_transmit(
                self.inputs[port], ffi.new("struct packet *[]", [packet]), 1
            )
            if not sent:
                raise ValueError("the input is full")

    def breathe(self, ns: int = 1000) -> int:
        """Pull and push once, `ns` later; return how many packets moved."""
        self.worker.now += ns
        ops = self.app.ops
        return sum(run(self.struct) for run in (ops.pull, ops.push) if run)

    def tick(self) -> None:
        """Call the app's tick."""
        self.app.ops.tick(self.struct)

    def arm(self) -> int:
        """Return what the app says when its worker wants to sleep."""
        return int(self.app.ops.arm(self.struct, ffi.new("struct wake *")))

    def received(self, port: int = 0) -> list[bytes]:
        """Take all frames off an output, the first if none is told."""
        packets = ffi.new("struct packet *[]", lib.LINK_CAPACITY)
        n = lib.engine_link_receive(self.outputs[port], packets, lib.LINK_CAPACITY)
        frames = [bytes(ffi.buffer(p.data, p.length)) for p in packets[0:n]]
        for packet in packets[0:n]:
            lib.engine_packet_free(self.freelist, packet)
        return frames

    def drain(self) -> list[bytes]:
        """Return all frames that come until a breath brings none."""
        frames: list[bytes] = []
        while self.breathe():
            frames += self.received()
        return frames
