"""Lwaftr: the lwAFTR as an app. The work is done in lwaftr.c and the files beside it.

Imports apps and engine.
"""

import itertools
import mmap
import secrets
from dataclasses import dataclass
from typing import Any, Final, cast

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources, check_range
from snabb_py.engine.bpf import Program, compile_expression
from snabb_py.engine.memory import new_aligned
from snabb_py.lwaftr.conf_types import (
    ErrorRateLimiting,
    ExternalInterface,
    LwaftrConfig,
    Queue,
    QueueInterface,
)
from snabb_py.lwaftr.counters import NAMES

#: Seconds that fragments of a packet wait for the others (RFC 8200, 4.5).
REASSEMBLY_TIMEOUT_S: Final = 60

#: What part of all packets fragments may hold: of each side, and of tunnelled ones.
_PARTS: Final = (4, 4, 8)
_KINDS: Final = (
    lib.REASSEMBLY_IPV4,
    lib.REASSEMBLY_IPV6,
    lib.REASSEMBLY_TUNNELLED,
)
_UNANSWERED: Final = {lib.NEIGHBOR_INCOMPLETE, lib.NEIGHBOR_UNREACHABLE}
_ANSWERED: Final = {lib.NEIGHBOR_STATIC, lib.NEIGHBOR_REACHABLE, lib.NEIGHBOR_STALE}

_serials = itertools.count(1)


@dataclass(frozen=True)
class Share:
    """What part of an lwAFTR one of several apps is, each in a worker of its own.

    They have one config and stand behind one interface to each side, whose packets
    `Spread` deals out. Index 0 gets ARP and neighbour discovery; the others are told
    where the next hops are. Each sends its part of the ICMP errors that may be sent,
    and of the identifications of fragments.

    Attributes:
        index: 0..count - 1.
        count: of all, 64 at most.
    """

    index: int = 0
    count: int = 1

    def of_rate(self, limit: ErrorRateLimiting) -> tuple[int, float]:
        """Return packets and period: of all shares together the same rate.

        In no period are there more than the limit by a packet for each share.
        """
        packets = -(-limit.packets // self.count)
        periods = packets * self.count / limit.packets if packets else 1
        return packets, limit.period * periods


class _NextHop:
    """Where the next hop of a side is, for all shares: `struct next_hop`."""

    def __init__(self) -> None:
        self.struct: Any = new_aligned("struct next_hop *")

    def close(self) -> None:
        """Nothing is to be given up but memory."""


class _State:
    """What one app keeps while it runs, whatever its config becomes: `struct lwaftr`.

    Args:
        config: `struct lwaftr_config *` to begin with.
        interfaces: of both sides, for the number of packets that may be reassembled.
        npackets: in the pool, of which it may have its part.
        fragment_ids: of the packets that are cut up, those before the first ones.
    """

    def __init__(
        self,
        config: Any,
        interfaces: tuple[ExternalInterface, ExternalInterface],
        npackets: int,
        fragment_ids: tuple[int, int] | None,
    ) -> None:
        self.struct: Any = new_aligned("struct lwaftr *")
        ids = fragment_ids or (secrets.randbits(16), secrets.randbits(32))
        self.struct.ipv4_id, self.struct.ipv6_id = ids
        self._keep: list[Any] = []
        #: Of next hops: whether it was said that they do not answer.
        self.is_silent = [False, False]
        for i, side in enumerate(config.side):
            neighbor = new_aligned("struct neighbor *")
            known = ffi.new("struct neighbor_config *", side.neighbor[0])
            lib.neighbor_init(neighbor, known)
            self.struct.neighbor[i] = neighbor
            self.struct.neighbor_config[i] = known
            self._keep += (neighbor, known)
        for i, kind in enumerate(_KINDS):
            reassembly = interfaces[min(i, lib.LWAFTR_V6)].reassembly
            capacity = max(1, min(reassembly.max_packets, npackets // _PARTS[i]))
            self.struct.reassembler[i] = self._new_reassembler(
                kind,
                capacity,
                reassembly.max_fragments_per_packet,
                is_compat=bool(config.compat),
            )

    def _new_reassembler(
        self, kind: int, capacity: int, max_fragments: int, *, is_compat: bool
    ) -> Any:
        reassembler = new_aligned("struct reassembler *")
        # Pages that are zero, and none at all before fragments come.
        pages = mmap.mmap(-1, lib.reassembler_memory_needed(capacity))
        memory = ffi.from_buffer("uint8_t[]", pages)
        for_ever = is_compat and kind == lib.REASSEMBLY_IPV4
        lib.reassembler_init(
            reassembler,
            memory,
            kind,
            capacity,
            max_fragments,
            0 if for_ever else REASSEMBLY_TIMEOUT_S * 10**9,
            [secrets.randbits(64), secrets.randbits(64)],
            is_compat,
        )
        self._keep += (reassembler, memory)
        return reassembler


class Lwaftr(App):
    """The internet's end of lightweight 4over6 tunnels (RFC 7596).

               +--------+
        v4 --->|        |---> v4     the internet: IPv4, ARP
               | Lwaftr |
        v6 --->|        |---> v6     the B4s: IPv6, neighbour discovery
               +--------+

    What is sent where: out of v6 what came in on v4, in the tunnel of the softwire that
    has the destination's address and port; out of v4 what came out of a tunnel; out of
    v6 again (hairpinned) what is for another B4. Errors go back to where their cause
    came from. A full output holds up the other side's input; what ICMP errors and
    fragments are more than what came in is lost where it does not fit (`txdrop`).

    Args:
        config: everything that is configured.
        queue: which of its queues this is: addresses and next hops.
        share: of several, which it is.
        compat: as Snabb has it, where that is not what the RFCs ask for.
        fragment_ids: of IPv4 and IPv6: those of the packets that are cut up begin
            behind them; None: anywhere. For tests.

    A new config may come while the app runs: next hops that stay are not asked for
    again, fragments that wait go on waiting. `max-packets` of reassembly remains that
    of the first config.

    Counters: counters_abi.h.
    """

    inputs = Ports("v4", "v6")
    outputs = Ports("v4", "v6")
    counters = NAMES
    ops = ffi.addressof(lib.lwaftr_ops)
    reconfigurable = True

    def __init__(
        self,
        config: LwaftrConfig,
        queue: Queue,
        *,
        share: Share = Share(),
        compat: bool = False,
        fragment_ids: tuple[int, int] | None = None,
    ) -> None:
        check_range("share", share.index, 0, share.count - 1)
        check_range("shares", share.count, 1, lib.SPREAD_MAX_OUTPUTS)
        self._share = share
        self._ends = (queue.external, queue.internal)
        self._fragment_ids = fragment_ids
        self._interfaces = (config.external, config.internal)
        #: What `config` points to.
        self._keep: list[Any] = [config.binding_table]
        self.config: Any = ffi.new(
            "struct lwaftr_config *",
            {
                "serial": next(_serials),
                "table": config.binding_table.table,
                "side": [
                    self._side(config.external, queue.external, compat=compat),
                    self._side(config.internal, queue.internal, compat=compat),
                ],
                "flow_label": config.internal.flow_label & 0xFFFFF,
                "hairpinning": config.internal.hairpinning,
                "compat": compat,
                "worker": share.index,
                "worker_bits": (share.count - 1).bit_length(),
            },
        )

    def _side(
        self, interface: ExternalInterface, queue: QueueInterface, *, compat: bool
    ) -> dict[str, Any]:
        """Return the initializer of a `struct lwaftr_side`."""
        neighbor = ffi.new(
            "struct neighbor_config *",
            {
                "mac": queue.mac,
                "next_hop_mac": queue.next_hop_mac or bytes(6),
                "ip": queue.ip.packed,
                "next_hop": queue.next_hop_ip.packed if queue.next_hop_ip else b"",
                "is_ipv6": queue.ip.version == 6,  # noqa: PLR2004 - the version
                "is_static": queue.next_hop_mac is not None,
                "compat": compat,
            },
        )
        self._keep.append(neighbor)
        packets, period = self._share.of_rate(interface.error_rate_limiting)
        return {
            "neighbor": neighbor,
            "ingress": self._filter(interface.ingress_filter),
            "egress": self._filter(interface.egress_filter),
            "error_period": int(period * 10**9),
            "error_packets": packets,
            "mtu": interface.mtu,
            "max_fragments": interface.reassembly.max_fragments_per_packet,
            "vlan": queue.vlan_tag or 0,
            "is_tagged": queue.vlan_tag is not None,
            "allow_incoming_icmp": interface.allow_incoming_icmp,
            "generate_icmp_errors": interface.generate_icmp_errors,
        }

    def _filter(self, expression: str) -> dict[str, Any]:
        if not expression:
            return {}
        program: Program = compile_expression(expression)
        self._keep.append(program)
        return {"program": program.instructions, "code": program.code}

    def open(self, resources: Resources) -> None:
        """Make room for fragments and for what is learnt of the next hops."""
        npackets = resources.pool.npackets[lib.PACKET_SMALL] // self._share.count
        for side, end in zip(self.config.side, self._ends, strict=True):
            if self._share.count > 1 and end.next_hop_ip:
                # Of other addresses it is another one: nothing old is told.
                key = f"next hop: {end}"
                next_hop = resources.borrow(key, _NextHop, shared=True)
                self._keep.append(next_hop)
                side.next_hop = next_hop.struct
        #: Everything behind `state`.
        self.kept = _State(self.config, self._interfaces, npackets, self._fragment_ids)
        self.state = self.kept.struct

    @property
    def waiting(self) -> dict[str, int]:
        """Packets that are held, by the counter of those that are in vain.

        They wait for a next hop, or as fragments for the others.
        """
        state = self.state
        counts = {
            f"drop-next-hop-unresolved-ipv{version}-packets": neighbor.nwaiting
            for version, neighbor in zip((4, 6), state.neighbor, strict=True)
        } | {
            f"drop-{which}-frag-unreassembled": reassembler.nfragments
            for which, reassembler in zip(
                ("ipv4", "ipv6", "inner-ipv4"), state.reassembler, strict=True
            )
        }
        return {name: n for name, n in counts.items() if n}

    def supervise(self) -> str | None:
        """Say of next hops that they do not answer, and when they do."""
        if self._share.index > 0:
            return None  # the first one asks
        lines = []
        for i, end in enumerate(self._ends):
            neighbor, was_silent = self.state.neighbor[i], self.kept.is_silent[i]
            is_silent = neighbor.nprobes > 1 and neighbor.state in _UNANSWERED
            if is_silent != was_silent and (is_silent or neighbor.state in _ANSWERED):
                self.kept.is_silent[i] = is_silent
                what = "does not answer" if is_silent else "answers"
                lines.append(f"next hop {end.next_hop_ip} {what}")
        return "; ".join(lines) or None

    def adopt(self, old: App) -> None:
        """Go on with what the running app knows and holds."""
        super().adopt(old)
        self.kept = cast("Lwaftr", old).kept


class LwaftrOnAStick(Lwaftr):
    """The same with one interface for both sides.

                  +----------------+
        stick --->| LwaftrOnAStick |---> stick
                  +----------------+

    IPv4 and ARP are the internet's, all else is the B4s'; or, where the sides have
    different VLANs, each frame is its VLAN's.
    """

    inputs = Ports("stick")
    outputs = Ports("stick")
