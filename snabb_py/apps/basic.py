"""The basic apps: traffic made, swallowed, copied, split, joined, shaped.

Each class documents its ports and counters; the work is done in basic.c.
"""

from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, check_range, plain
from snabb_py.errors import ConfigError

#: Local experimental EtherType 1 (IEEE 802): what our own test frames carry.
TEST_ETHERTYPE = 0x88B5

#: Where Source puts its sequence number and Sink expects it: after the header.
SEQUENCE_OFFSET = 14

#: Bytes on the wire beside a frame: preamble and delimiter 8, FCS 4, gap 12.
WIRE_OVERHEAD = 24

#: What a policer lets pass at once, in ns of its rate.
BURST_NS = 250e6


def test_frame(size: int) -> bytes:
    """Return a frame of `size` bytes (14 to 65535, FCS not counted) to nobody.

    Locally administered addresses, the local experimental EtherType, zeros.
    """
    check_range("size", size, 14, 65535)
    header = bytes.fromhex("020000000002 020000000001")
    return (header + TEST_ETHERTYPE.to_bytes(2, "big")).ljust(size, b"\0")


class Source(App):
    """Packets without end, all the same but for a sequence number.

                +--------+
                | Source |---> tx
                +--------+

    Args:
        size: bytes of each frame, without FCS.
        frame: the frame itself, instead of one of zeros.
        count: packets to send; 0: without end.
        rate_pps: packets a second; 0: as many as the network takes.
        sequence: put a 64-bit number, counted from 0, in network order at offset 14.
    """

    outputs = Ports("tx")
    ops = ffi.addressof(lib.source_ops)
    reconfigurable = True

    def __init__(
        self,
        *,
        size: int = 60,
        frame: bytes | None = None,
        count: int = 0,
        rate_pps: float = 0,
        sequence: bool = False,
    ) -> None:
        frame = test_frame(size) if frame is None else frame
        check_range("frame length", len(frame), 14, lib.PACKET_LARGE_SIZE)
        check_range("count", count, 0, 2**63)
        check_range("rate_pps", rate_pps, 0, 1e9)
        if sequence:
            check_range("size with sequence", len(frame), SEQUENCE_OFFSET + 8, 65535)
        # Whole cache lines, as C copies them.
        self.frame = ffi.new("uint8_t[]", frame.ljust(-(-len(frame) // 64) * 64, b"\0"))
        self.config = ffi.new(
            "struct source_config *",
            {
                "frame": self.frame,
                "size": len(frame),
                "sequence": SEQUENCE_OFFSET if sequence else 0,
                "count": count,
                "rate": rate_pps / 1e9,
            },
        )
        self.state = ffi.new("struct source_state *")


class Sink(App):
    """The end of packets.

                +------+
        any --->| Sink |
                +------+

    Args:
        sequence: check the numbers that `Source(sequence=True)` put in, all inputs
            together; counted from 0.

    Counters: `lost`, `duplicated`, `reordered` (late, not lost), `foreign` (too short
    for a number). In flight at the end is neither.
    """

    inputs = Ports(any_number=True)
    counters = ("lost", "duplicated", "reordered", "foreign")
    ops = ffi.addressof(lib.sink_ops)

    def __init__(self, *, sequence: bool = False) -> None:
        self.config = ffi.new(
            "struct sink_config *", {"sequence": SEQUENCE_OFFSET if sequence else 0}
        )
        self.state = ffi.new("struct sink_state *")


class Silence(App):
    """No packets: for an input that nothing comes to.

    +---------+
    | Silence |---> tx
    +---------+
    """

    outputs = Ports("tx")
    ops = ffi.new("struct app_ops *")


class Forward(App):
    """One hop: what comes in goes out. A full output holds the input up.

           +---------+
    rx --->| Forward |---> tx
           +---------+
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    ops = ffi.addressof(lib.forward_ops)


class Join(App):
    """Many inputs into one output, each in turn. A full output holds them up.

            +------+
    any --->| Join |---> tx
            +------+
    """

    inputs = Ports(any_number=True)
    outputs = Ports("tx")
    ops = ffi.addressof(lib.join_ops)

    def __init__(self) -> None:
        self.state = ffi.new("uint32_t *")


class Tee(App):
    """Each packet to every output: a copy of its own for all but the last.

                +-----+
        any --->| Tee |---> any
                +-----+

    A full output loses its copies (the link's `txdrop`) and holds nobody up.
    Counters: `drop-no-packet` (nothing free to copy into).
    """

    inputs = Ports(any_number=True)
    outputs = Ports(any_number=True)
    counters = ("drop-no-packet",)
    ops = ffi.addressof(lib.tee_ops)


class Split(App):
    """Packets dealt out to the outputs in turn, one by one.

                +-------+
        any --->| Split |---> any
                +-------+

    A full output loses its share (the link's `txdrop`).
    """

    inputs = Ports(any_number=True)
    outputs = Ports(any_number=True)
    ops = ffi.addressof(lib.split_ops)

    def __init__(self) -> None:
        self.state = ffi.new("uint32_t *")


class Repeater(App):
    """What came in goes out again and again, in order, as fast as it is taken.

               +----------+
        rx --->| Repeater |---> tx
               +----------+

    Args:
        limit: packets to remember, 1 to 65536; they stay out of the pool.

    Counters: `drop-full` (came when `limit` were there).
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    counters = ("drop-full",)
    ops = ffi.addressof(lib.repeater_ops)

    def __init__(self, *, limit: int = 1024) -> None:
        check_range("limit", limit, 1, 65536)
        self.packets = ffi.new("struct packet *[]", limit)
        self.state = ffi.new(
            "struct repeater_state *", {"packets": self.packets, "limit": limit}
        )


class Truncate(App):
    """Frames cut to a length; shorter ones pass, or are filled with zeros.

               +----------+
        rx --->| Truncate |---> tx
               +----------+

    Offloads end here: a cut frame cannot be segmented, its checksum not be finished.
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    ops = ffi.addressof(lib.truncate_ops)
    reconfigurable = True

    def __init__(self, length: int, *, pad: bool = False) -> None:
        check_range("length", length, 1, lib.PACKET_LARGE_SIZE)
        self.config = ffi.new(
            "struct truncate_config *", {"length": length, "pad": pad}
        )


class Sample(App):
    """Every n-th packet; the others are dropped.

               +--------+
        rx --->| Sample |---> tx
               +--------+

    Counters: `drop-unsampled`.
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    counters = ("drop-unsampled",)
    ops = ffi.addressof(lib.sample_ops)
    reconfigurable = True

    def __init__(self, n: int) -> None:
        check_range("n", n, 1, 2**31)
        self.config = ffi.new("struct sample_config *", {"n": n})
        self.state = ffi.new("uint32_t *")


class Police(App):
    """A token bucket: what is over the rate is dropped.

               +--------+
        rx --->| Police |---> tx
               +--------+

    Args:
        rate_gbps: 10^9 bits a second on the wire, as all Gbps here: preamble, FCS and
            gap count 24 bytes a packet. A super-frame counts as its segments, and
            those that are too many are cut off.
        burst_bytes: what may pass at once after a pause; default 250 ms of the rate,
            128 KiB at least: a TCP that has lost too much waits for 200 ms (Linux's
            least timeout), and what it had not used by then would be lost to it.
        overhead_bytes: instead of the 24.

    Counters: `drop-policed`, `drop-policed-segments` (cut off super-frames whose first
    ones passed).
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    counters = ("drop-policed", "drop-policed-segments")
    ops = ffi.addressof(lib.police_ops)
    reconfigurable = True

    def __init__(
        self,
        rate_gbps: float,
        *,
        burst_bytes: int | None = None,
        overhead_bytes: int = WIRE_OVERHEAD,
    ) -> None:
        if not 0 < rate_gbps <= 1000:  # noqa: PLR2004 - the same number as in the text
            raise ConfigError(f"rate_gbps: {plain(rate_gbps)} is not within 0 to 1000")
        check_range("overhead_bytes", overhead_bytes, 0, 1000)
        rate = rate_gbps / 8  # bytes per ns
        if burst_bytes is None:
            burst_bytes = max(int(rate * BURST_NS), 128 * 1024)
        check_range("burst_bytes", burst_bytes, 1, 2**40)
        self.config: Any = ffi.new(
            "struct police_config *",
            {"rate": rate, "burst": burst_bytes, "overhead": overhead_bytes},
        )
        self.state: Any = ffi.new("struct police_state *")
