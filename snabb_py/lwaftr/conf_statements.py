"""Configs in the text of the YANG module snabb-softwire-v3.

What may be where is said by the tables below; the binding table is read in C
(softwires_statements.c). Imports errors.
"""

from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any, Final, TypeVar

from snabb_py._native import lib
from snabb_py.lwaftr.binding_table import BindingTable, new_list
from snabb_py.lwaftr.conf_properties import parse_table
from snabb_py.lwaftr.conf_types import (
    ErrorRateLimiting,
    ExternalInterface,
    Instance,
    InternalInterface,
    LwaftrConfig,
    Queue,
    QueueInterface,
    Reassembly,
)
from snabb_py.lwaftr.conf_values import (
    BOOL,
    IPV4,
    IPV6,
    MAC,
    MTU_IPV4,
    MTU_IPV6,
    STRING,
    UINT16,
    UINT32,
    VLAN,
    Value,
    uint,
)
from snabb_py.lwaftr.text import Text, Word

Interface = TypeVar("Interface", bound=ExternalInterface)
Schema = dict[str, Any]  #: keys and what they are: Value, a Schema, Many, TABLE


@dataclass(frozen=True)
class Many:
    """A block that may be there several times, told apart by the value of `key`."""

    schema: Schema
    key: str


TABLE: Final = object()  #: what C reads

_LIMITS: Final[Schema] = {
    "mru": UINT16,
    "ingress-filter": STRING,
    "egress-filter": STRING,
    "allow-incoming-icmp": BOOL,
    "generate-icmp-errors": BOOL,
    "error-rate-limiting": {"packets": UINT32, "period": uint(1, 2**32 - 1, "seconds")},
    "reassembly": {
        "max-fragments-per-packet": uint(1, 2**32 - 1),
        "max-packets": uint(1, 2**32 - 1),
    },
}


def _queue_interface(ip: Value) -> Schema:
    next_hop = {"ip": ip, "mac": MAC}
    return {"ip": ip, "mac": MAC, "vlan-tag": VLAN, "next-hop": next_hop}


_QUEUE: Final[Schema] = {
    "id": uint(0, 255, "a queue"),
    "external-interface": _queue_interface(IPV4),
    "internal-interface": _queue_interface(IPV6),
}
_INSTANCE: Final[Schema] = {
    "device": STRING,
    "external-device": STRING,
    "queue": Many(_QUEUE, "id"),
}
SCHEMA: Final[Schema] = {
    "softwire-config": {
        "name": STRING,
        "instance": Many(_INSTANCE, "device"),
        "external-interface": _LIMITS | {"mtu": MTU_IPV4},
        "internal-interface": _LIMITS
        | {
            "mtu": MTU_IPV6,
            "flow-label": uint(0, 2**20 - 1, "a flow label"),
            "vlan-tag": uint(0, 4095, "a VLAN"),
            "hairpinning": BOOL,
        },
        "binding-table": TABLE,
    },
}


@dataclass
class Block:
    """What a block says, and where.

    Attributes:
        name: its keyword.
        at: where it begins.
        values: of leaves, blocks, lists of blocks, by their keywords.
    """

    name: str
    at: int
    values: dict[str, Any] = field(default_factory=dict)

    def block(self, key: str) -> "Block":
        """Return a block that is there or empty."""
        block: Block = self.values.get(key) or Block(key, self.at)
        return block

    def given(self, *keys: str) -> dict[str, Any]:
        """Return those of some leaves that are there, as arguments."""
        return {
            key.replace("-", "_"): self.values[key]
            for key in keys
            if key in self.values
        }


class Reader:
    """Reads a text by the tables, and makes a config of it."""

    def __init__(self, text: Text, *, table: Text | None, compat: bool) -> None:
        self.text = text
        self.table = table
        self.compat = compat

    # -- by the tables ---------------------------------------------------------

    def read_block(
        self, block: Block, schema: Schema, *, is_all: bool = False
    ) -> Block:
        """Read a block's statements up to what ends it."""
        while True:
            kind, key, value = self.text.next_statement()
            if kind == (lib.TEXT_END if is_all else lib.TEXT_CLOSE):
                return block
            if kind == lib.TEXT_CLOSE:
                self.text.fail(self.text.at - 1, "a } too many")
            if kind == lib.TEXT_END:
                self.text.fail(block.at, f"{block.name} begins here and does not end")
            if key.text not in schema:
                self.text.unknown_key(key, list(schema))
            what = schema[key.text]
            if key.text in block.values and not isinstance(what, Many):
                self.text.fail(key.at, f"{key.text} is there twice")
            if isinstance(what, Value):
                if kind == lib.TEXT_OPEN:
                    self.text.fail(key.at, f"{key.text} has a value, no {{")
                block.values[key.text] = self.read_value(what, value)
            elif kind == lib.TEXT_LEAF:
                self.text.expected('"{"', value)
            else:
                self.read_inner(block, key, what)

    def read_value(self, what: Value, value: Word) -> Any:
        """Return what a leaf's value means."""
        try:
            return what.convert(value.text)
        except ValueError:
            self.text.expected(what.expected, value)

    def read_inner(self, outer: Block, key: Word, what: Any) -> None:
        """Read a block within another."""
        if what is TABLE:
            outer.values[key.text] = entries = new_list()
            self.text.check(lib.softwires_read_statements(entries, self.text.text))
            return
        if not isinstance(what, Many):
            outer.values[key.text] = self.read_block(Block(key.text, key.at), what)
            return
        block = self.read_block(Block(key.text, key.at), what.schema)
        name = self.require(block, what.key)
        blocks = outer.values.setdefault(key.text, {})
        if name in blocks:
            line = self.text.line_of(blocks[name].at)
            self.text.fail(
                key.at,
                f"{key.text} with {what.key} {name} is there twice (line {line})",
            )
        blocks[name] = block

    def require(self, block: Block, key: str) -> Any:
        """Return what must be there."""
        if key not in block.values:
            self.text.fail(block.at, f"{block.name} without {key}")
        return block.values[key]

    # -- into a config ---------------------------------------------------------

    def read_config(self) -> LwaftrConfig:
        """Return the config that the whole text holds."""
        file = self.read_block(Block("the file", 0), SCHEMA, is_all=True)
        root: Block = self.require(file, "softwire-config")
        blocks = self.require(root, "instance").values()
        instances = tuple(self.make_instance(block) for block in blocks)
        return LwaftrConfig(
            binding_table=self.make_table(root, instances),
            instances=instances,
            external=_make_interface(
                ExternalInterface, root.block("external-interface")
            ),
            internal=_make_interface(
                InternalInterface, root.block("internal-interface")
            ),
            **root.given("name"),
        )

    def make_table(self, root: Block, instances: tuple[Instance, ...]) -> BindingTable:
        """Return the table: that of the text, if no other one takes its place."""
        queues = [queue for instance in instances for queue in instance.queues]
        own = [ip for q in queues if isinstance(ip := q.internal.ip, IPv6Address)]
        if self.table:
            return parse_table(self.table, own=own, compat=self.compat)
        entries = root.values.get("binding-table") or new_list()
        return BindingTable.of(
            entries, self.text.fail_with, own=own, compat=self.compat
        )

    def make_instance(self, block: Block) -> Instance:
        """Return a device."""
        queues = self.require(block, "queue").values()
        return Instance(
            device=block.values["device"],
            external_device=block.values.get("external-device"),
            queues=tuple(self.make_queue(queue) for queue in queues),
        )

    def make_queue(self, block: Block) -> Queue:
        """Return a queue of a device."""
        return Queue(
            id=block.values["id"],
            external=self.make_side(self.require(block, "external-interface")),
            internal=self.make_side(self.require(block, "internal-interface")),
        )

    def make_side(self, block: Block) -> QueueInterface:
        """Return one side of a queue."""
        hop: Block = self.require(block, "next-hop")
        if len(hop.values) != 1:
            said = "both" if hop.values else "neither"
            self.text.fail(hop.at, f"next-hop needs ip or mac, and has {said}")
        return QueueInterface(
            ip=self.require(block, "ip"),
            mac=self.require(block, "mac"),
            next_hop_ip=hop.values.get("ip"),
            next_hop_mac=hop.values.get("mac"),
            vlan_tag=block.values.get("vlan-tag"),
        )


def _make_interface(kind: type[Interface], block: Block) -> Interface:
    rate = block.block("error-rate-limiting").given("packets", "period")
    room = block.block("reassembly").given("max-fragments-per-packet", "max-packets")
    leaves = [key for key, what in _LIMITS.items() if isinstance(what, Value)]
    leaves += ["mtu", "flow-label", "hairpinning"]
    return kind(
        **block.given(*leaves),
        error_rate_limiting=ErrorRateLimiting(**rate),
        reassembly=Reassembly(**room),
    )


def parse(text: Text, *, table: Text | None, compat: bool) -> LwaftrConfig:
    """Return the config that a text holds; see conf.read."""
    return Reader(text, table=table, compat=compat).read_config()
