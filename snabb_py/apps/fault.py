"""Fault: a bad wire, on purpose and reproducibly. The work is done in fault.c."""

from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, check_range


def _threshold(name: str, probability: float) -> int:
    """Return a probability in units of 2^-32."""
    check_range(name, probability, 0, 1)
    return round(probability * 2**32)


class Fault(App):
    """Packets lost, damaged, doubled, reordered and delayed.

               +-------+
        rx --->| Fault |---> tx
               +-------+

    The same seed does the same to the n-th packet, whatever the traffic's bursts and
    the other probabilities. Without a delay a full output holds the input up.

    Args:
        seed: 0 to 2^64-1.
        drop: probability, 0 to 1, that a packet is lost; the others likewise.
        corrupt: that one bit of it is flipped.
        duplicate: that it comes twice, one right behind the other.
        reorder: that 1 to `distance` later packets overtake it. At most 64 packets
            wait for that at a time, and none for longer than 50 ms.
        distance: packets, 1 to 1024.
        delay_us: how much later each packet goes, up to 10 s; an idle worker may take
            100 us more.
        jitter_us: most of a random addition to it; changes no order, a packet waits
            for those before it.

    Counters: `drop-fault`, `corrupted`, `duplicated`, `reordered` (overtaken by one
    at least), `delayed`, `drop-delay-queue-full` (16384 packets are being delayed),
    `drop-no-packet` (nothing free to make a duplicate of).
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    counters = (
        "drop-fault",
        "corrupted",
        "duplicated",
        "reordered",
        "delayed",
        "drop-delay-queue-full",
        "drop-no-packet",
    )
    ops = ffi.addressof(lib.fault_ops)
    reconfigurable = True

    def __init__(  # noqa: PLR0913 - all have defaults, all are faults of one wire
        self,
        seed: int = 0,
        *,
        drop: float = 0.0,
        corrupt: float = 0.0,
        duplicate: float = 0.0,
        reorder: float = 0.0,
        distance: int = 8,
        delay_us: float = 0,
        jitter_us: float = 0,
    ) -> None:
        check_range("seed", seed, 0, 2**64 - 1)
        check_range("distance", distance, 1, 1024)
        check_range("delay_us", delay_us, 0, 10e6)
        check_range("jitter_us", jitter_us, 0, 10e6)
        self.config: Any = ffi.new(
            "struct fault_config *",
            {
                "seed": seed,
                "drop": _threshold("drop", drop),
                "corrupt": _threshold("corrupt", corrupt),
                "duplicate": _threshold("duplicate", duplicate),
                "reorder": _threshold("reorder", reorder),
                "delay": round(delay_us * 1000),
                "jitter": round(jitter_us * 1000),
                "distance": distance,
            },
        )
        self.queue: Any = ffi.new("struct fault_delayed[]", lib.FAULT_QUEUE)
        self.state: Any = ffi.new("struct fault_state *", {"queue": self.queue})

    def adopt(self, old: App) -> None:
        """Take over what the running app holds."""
        super().adopt(old)
        if isinstance(old, Fault):
            self.queue = old.queue
