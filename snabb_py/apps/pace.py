"""Pace: packets at an exact rate, whoever makes them. The work is done in pace.c."""

from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import FiniteSource, Ports, check_range, sending_ns
from snabb_py.errors import ConfigError


class Pace(FiniteSource):
    """Packets let through one by one as a rate has them due.

               +------+
        rx --->| Pace |---> tx
               +------+

    What comes too early waits, and holds its source up. After a pause it makes up for
    `catch_up_us`; from there on packets are due later by what goes beyond, and as many
    of them are counted as had been due in that time.

    Args:
        rate_pps: packets a second; 0: as they come.
        rate_gbps: instead: 10^9 bits a second on the wire: preamble, FCS and gap count
            24 bytes a packet, and none is shorter than 60 without.
        count: packets that pass, then none; 0: all.
        catch_up_us: 0 to 10^6.

    Counters: `missed-late` (packets that had been due when none came, or none was
    taken, and have passed later).
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    counters = ("missed-late",)
    ops = ffi.addressof(lib.pace_ops)
    reconfigurable = True

    def __init__(
        self,
        *,
        rate_pps: float = 0,
        rate_gbps: float = 0,
        count: int = 0,
        catch_up_us: float = 100,
    ) -> None:
        check_range("rate_pps", rate_pps, 0, 1e9)
        check_range("rate_gbps", rate_gbps, 0, 1000)
        check_range("count", count, 0, 2**63)
        check_range("catch_up_us", catch_up_us, 0, 1e6)
        if rate_pps and rate_gbps:
            raise ConfigError("rate_pps and rate_gbps: give one of them")
        self.config: Any = ffi.new(
            "struct pace_config *",
            {
                "per_packet": 1e9 / rate_pps if rate_pps else 0,
                "per_byte": 8 / rate_gbps if rate_gbps else 0,
                "catch_up": catch_up_us * 1000,
                "count": count,
            },
        )
        self.state: Any = ffi.new("struct pace_state *")

    @property
    def is_done(self) -> bool:
        """Whether `count` packets have passed; never without."""
        return bool(0 < self.config.count <= self.state.passed)

    @property
    def sending_ns(self) -> float:
        """See `FiniteSource`."""
        state = self.state
        took = sending_ns(state.last - state.begun, state.before, state.passed)
        return took or float(self.config.per_packet * state.passed)
