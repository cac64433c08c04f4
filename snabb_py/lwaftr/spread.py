"""Spread: what comes in on an interface, dealt out to the workers of an lwAFTR.

The work is done in spread.c. Imports apps and engine.
"""

import mmap
import secrets
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources
from snabb_py.engine.memory import new_aligned
from snabb_py.lwaftr.lwaftr import REASSEMBLY_TIMEOUT_S


class Spread(App):
    """Each flow to one output, in order; fragments to that of their flow.

               +--------+
        rx --->| Spread |---> any
               +--------+

    Flows are told apart by IPv4 addresses, inside of tunnels as outside, by a hash that
    nobody outside can foresee. Fragments of a tunnel's datagram go where the addresses
    in the first one say; those that come before it wait. What has no IPv4 addresses
    goes by its IPv6 ones; ARP, neighbour discovery and what is not IP to the first
    output. A full output holds the input up. There may be 64 outputs; in natural
    order, that is of lwAFTRs whose `Share` has the same index.

    Counters: `fragments-held` (waited for their first one), `drop-fragment-timeout`
    (it has not come within a minute), `drop-fragment-evicted` (there was no room for
    all that waited: at the cost of the subscriber who has most),
    `drop-fragment-too-many` (of one datagram waited), `forgotten-datagrams` (there was
    no room to remember where their fragments go: those still to come wait in vain).
    """

    inputs = Ports("rx")
    outputs = Ports(any_number=True)
    counters = (
        "fragments-held",
        "drop-fragment-timeout",
        "drop-fragment-evicted",
        "drop-fragment-too-many",
        "forgotten-datagrams",
    )
    ops = ffi.addressof(lib.spread_ops)

    def open(self, resources: Resources) -> None:
        """Make room for fragments; no memory is used before they come."""
        del resources
        memory = mmap.mmap(-1, lib.spread_memory_needed())
        self._memory = ffi.from_buffer("uint8_t[]", memory)
        self.state: Any = new_aligned("struct spread *")
        seeds = [secrets.randbits(64) for _ in range(6)]
        lib.spread_init(self.state, self._memory, REASSEMBLY_TIMEOUT_S * 10**9, seeds)
