"""Filter: what an expression describes passes. The work is done in filter.c.

The expressions are compiled in bpf.py; connections live in connections.c.
"""

import secrets
from typing import Any

from snabb_py._native import ffi, lib
from snabb_py.engine.app import App, Ports, Resources, check_range
from snabb_py.engine.bpf import compile_expression
from snabb_py.engine.memory import new_aligned
from snabb_py.errors import ConfigError


class Connections:
    """The connections of one name, shared by the filters that go by it.

    Args:
        room: connections to remember, about: twice as many entries are made, eight to
            a bucket, so that hardly a bucket is full before.
        seed: of the hash.
    """

    def __init__(self, room: int, seed: int | None = None) -> None:
        self.room = room
        nbuckets = 1 << max(0, (2 * room - 1).bit_length() - 3)
        self.buckets: Any = new_aligned("struct connection_bucket[]", nbuckets)
        self.table: Any = ffi.new(
            "struct connections *",
            {
                "buckets": self.buckets,
                "mask": nbuckets - 1,
                "seed": secrets.randbits(64) if seed is None else seed,
            },
        )

    def close(self) -> None:
        """Nothing is open: the memory goes with the last app that has it."""


class Filter(App):
    """What an expression describes passes, the rest is dropped.

               +--------+
        rx --->| Filter |---> tx
               +--------+

    A full output holds the input up.

    Args:
        expression: of pcap-filter(7), as for tcpdump; "": everything passes. `ip` means
            frames without a tag, `vlan and ip` those with one.
        connections: a name: what passes begins a connection, or goes on with it, and
            what belongs to one passes through every filter of that name, whatever its
            own expression says: replies, ICMP errors about it, fragments behind a
            first one. The filters of a name run on one worker. Connections survive a
            change of expressions.
        room: connections that are remembered, about; 1 to 2^20. More are let through
            as the expression says, and their replies are not.
        jit: run machine code, where it can be made.

    A connection is forgotten without a packet for 2 hours (TCP), 60 s (TCP with packets
    in one direction only), 20 s (TCP after its end), 3 min (UDP), 30 s (ICMP queries),
    10 min (others, by their addresses).

    Counters: `drop-filtered`; `passed-reply`, `passed-related` (for their connection
    alone), `connections` (begun), `untracked-table-full`, `untracked-other-worker` (the
    name belongs to filters of another worker).
    """

    inputs = Ports("rx")
    outputs = Ports("tx")
    counters = (
        "drop-filtered",
        "passed-reply",
        "passed-related",
        "connections",
        "untracked-table-full",
        "untracked-other-worker",
    )
    ops = ffi.addressof(lib.filter_ops)
    reconfigurable = True

    def __init__(
        self,
        expression: str = "",
        *,
        connections: str | None = None,
        room: int = 16384,
        jit: bool = True,
    ) -> None:
        check_range("room", room, 1, 2**20)
        self.name = connections
        self.room = room
        self.program = compile_expression(expression, jit=jit) if expression else None
        self.config: Any = ffi.new("struct filter_config *")
        if self.program:
            self.config.program = self.program.instructions
            self.config.code = self.program.code
        self.connections: Connections | None = None

    def open(self, resources: Resources) -> None:
        """Get the connections of our name.

        Raises:
            ConfigError: another filter of the name has another `room`.
        """
        if self.name is None:
            return
        table = resources.borrow(
            f"connections {self.name}", lambda: Connections(self.room), shared=True
        )
        if table.room != self.room:
            raise ConfigError(
                f'connections "{self.name}": there is room for {table.room}, '
                f"not {self.room}; all filters of a name say the same, and it stays "
                "as long as there are any"
            )
        self.connections = table
        self.config.connections = table.table
