"""Virtual machines that send each other numbered packets: what is lost is seen.

    with Talkers([(path, mac), (other, "02:00:00:00:00:0b")]) as talkers:
        ...
        assert all(flow.is_whole for flow in talkers.stop())

Each pair sends both ways as fast as its packets arrive: of a flow never more than
`WINDOW` are under way, fewer than any ring on the way has places. So none is lost for
lack of time, however long a worker waits for a CPU, and one that is lost is an error.
The machines are our own front end, in an engine of their own.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from snabb_py.apps.traffic import Checker, Generator, udp_frames
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.virtio.frontend import Frontend, Guest

#: Packets of a flow that are under way at most.
WINDOW = 512
#: Seconds between two looks at what has arrived, and until all must have.
PACE, PATIENCE = 200e-6, 10.0
#: Of those who send to nobody.
OTHERS_PPS, NOBODY = 10_000, "02:ff:ff:ff:ff:ff"

End = tuple[Path, str]


@dataclass(frozen=True)
class Flow:
    """What has become of the packets from one machine to another.

    Attributes:
        silence: the longest time in which none arrived, seconds.
    """

    sent: int
    arrived: int
    lost: int
    duplicated: int
    reordered: int
    silence: float

    @property
    def is_whole(self) -> bool:
        """Whether all arrived, once and in order."""
        return self.sent == self.arrived and not (
            self.lost or self.duplicated or self.reordered
        )


class Talkers:
    """Virtual machines at sockets, which send to each other two by two.

    Args:
        ends: their sockets, where somebody listens, and MAC addresses; an even number.
        others: the same of machines that send to nobody, slowly.
    """

    def __init__(self, ends: Sequence[End], others: Sequence[End] = ()) -> None:
        self.guests = [Guest(path) for path, _ in (*ends, *others)]
        self.engine = Engine(large_packets=0, huge=False, log=lambda _: None)
        macs = [mac for _, mac in ends]
        config = Config()
        config.app("checker", Checker, verify=True)
        for i, (_, mac) in enumerate((*ends, *others)):
            self.guests[i].start()
            is_talking = i < len(ends)
            frames = udp_frames(
                64, src_mac=mac, dst_mac=macs[i ^ 1] if is_talking else NOBODY
            )
            pace = {"count": WINDOW} if is_talking else {"rate_pps": OTHERS_PPS}
            config.app(f"source{i}", Generator, frames=frames, stream=i, **pace)
            config.app(f"guest{i}", Frontend, guest=self.guests[i])
            config.link(f"source{i}.tx -> guest{i}.rx")
            config.link(f"guest{i}.tx -> checker.rx{i}")
        self.engine.commit(config)
        self.checker: Any = self.engine.apps["checker"].instance
        self.sources: list[Any] = [
            self.engine.apps[f"source{i}"].instance for i in range(len(ends))
        ]
        self._silences = [0.0] * len(ends)
        self._is_ending = False
        self._thread = threading.Thread(target=self._pace)
        self._thread.start()

    def _arrived(self, i: int) -> int:
        stream = self.checker.streams.get(i)
        return stream.packets - stream.duplicated if stream else 0

    def _pace(self) -> None:
        """Let a packet be sent for each that has arrived."""
        seen = [(0, time.monotonic())] * len(self.sources)
        while not self._is_ending:
            now = time.monotonic()
            for i, source in enumerate(self.sources):
                n, since = self._arrived(i), seen[i][1]
                self._silences[i] = max(self._silences[i], now - since)
                if n > seen[i][0]:
                    seen[i] = n, now
                # The worker reads it anew in each breath.
                source.config.count = n + WINDOW
            time.sleep(PACE)

    def stop(self) -> list[Flow]:
        """Send no more, wait for what is under way; return what became of all."""
        self._is_ending = True
        self._thread.join()
        deadline = time.monotonic() + PATIENCE
        numbers = range(len(self.sources))
        for i in numbers:
            source = self.sources[i]
            while time.monotonic() < deadline and (
                not source.is_done or self._arrived(i) < source.sent
            ):
                time.sleep(1e-3)
        return [self._flow(i) for i in numbers]

    def _flow(self, i: int) -> Flow:
        stream = self.checker.streams.get(i)
        return Flow(
            self.sources[i].sent,
            self._arrived(i),
            stream.lost if stream else 0,
            stream.duplicated if stream else 0,
            stream.reordered if stream else 0,
            self._silences[i],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending = True
        self._thread.join()
        self.engine.close()
        for guest in self.guests:
            guest.close()
