"""Packets written as scapy expressions: `Ether()/IP(dst="198.51.100.1")/UDP()`.

An expression is read, never run: it may name scapy's layers, call them with literals
for their fields, and join them with "/". Names are not looked up, no host is asked for
anything, and what the user leaves out is the same on every machine. What scapy makes of
odd values may have no end: it builds packets in a process of its own.
"""

import ast
import contextlib
import logging
import re
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

from snabb_py.apps.traffic import FCS_SIZE
from snabb_py.cli.confined import confined, reason
from snabb_py.engine.app import check_range
from snabb_py.errors import ConfigError

MOST_CHARACTERS = 16384
MOST_LAYERS = 64
MOST_DEPTH = 16  #: of lists, and of layers that are fields of layers
MOST_PACKETS = 4096
MOST_BITS = 128
LEAST_FRAME, MOST_FRAME = 14, 10240
LENGTH = 4  #: bytes in front of each frame that is handed back
MOST_REPLY = MOST_PACKETS * (LENGTH + MOST_FRAME)
MOST_DIGITS = 3  #: of a prefix's length
#: Characters of what the user wrote that an error repeats.
MOST_REPEATED = 40

#: What layers get where nothing is said, and scapy would ask the machine's tables and
#: the net: addresses set aside for testers (RFC 2544, appendix C; RFC 5180, 8).
DEFAULTS: dict[str, dict[str, str]] = {
    "Ether": {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"},
    "Dot3": {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"},
    "IP": {"src": "198.18.0.1", "dst": "198.19.0.1"},
    "IPv6": {"src": "2001:2:0:1::1", "dst": "2001:2:0:2::1"},
    "ARP": {"hwsrc": "02:00:00:00:00:01", "psrc": "198.18.0.1", "pdst": "198.19.0.1"},
}
MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
#: Layers that a packet may begin with.
FIRST = ("Ether", "Dot3")
PAYLOADS = ("Raw", "Padding")
#: What else there is in Python, where its class's name does not say it.
CALLED = {
    "BinOp": "this operator",
    "BoolOp": "this operator",
    "UnaryOp": "this operator",
    "Compare": "a comparison",
    "IfExp": "a condition",
    "ListComp": "a comprehension",
    "SetComp": "a comprehension",
    "DictComp": "a comprehension",
    "GeneratorExp": "a comprehension",
    "JoinedStr": "an f-string",
    "NamedExpr": "an assignment",
    "Dict": "a dictionary",
    "Set": "a set",
    "Subscript": "an index",
    "Attribute": "an attribute",
    "Lambda": "a lambda",
    "Starred": "a star",
    "Await": "await",
    "Yield": "yield",
    "YieldFrom": "yield",
    "Call": "a call",
}


def read_packets(text: str, sizes: Sequence[int] = ()) -> list[bytes]:
    """Return the frames that an expression stands for, without FCS.

    More than one where a field has a list, a (first, last) or a prefix for its value.

    Args:
        text: the expression.
        sizes: of frames with FCS; each packet is made in each of them, filled up with a
            payload of zeros. None: packets are as they are.

    Raises:
        ConfigError: it is anything else than layers, literals and "/"; it cannot be so
            short; no packet comes of it, or none within the limits of `confined`.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"packet: longer than {MOST_CHARACTERS} characters")
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        where = f", at character {error.offset}" if error.offset else ""
        raise ConfigError(f"packet: {error.msg}{where}") from None
    except (RecursionError, MemoryError):
        raise ConfigError("packet: nested too deeply") from None
    except ValueError as error:
        raise ConfigError(f"packet: {error}") from None
    reply = confined(lambda: _joined(tree, sizes), "packet", MOST_REPLY)
    return list(_frames_in(reply))


def _joined(tree: ast.expr, sizes: Sequence[int]) -> bytes:
    """Return all frames of an expression, each behind its length."""
    reader = _Reader(_layers())
    with _offline():
        frames = _build(reader.packet(tree, 0), sizes)
    return b"".join(len(frame).to_bytes(LENGTH) + frame for frame in frames)


def _frames_in(reply: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(reply):
        begin = at + LENGTH
        at = begin + int.from_bytes(reply[at:begin])
        yield reply[begin:at]


def _layers() -> dict[str, Any]:
    import scapy.layers.all  # noqa: F401 - registers them
    from scapy.config import conf

    return {layer.__name__: layer for layer in conf.layers}


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Have scapy ask nobody and say nothing."""
    from scapy.config import conf

    ask = socket.getaddrinfo

    def read(host: Any, port: Any, *rest: Any) -> Any:
        family, kind, protocol, *_ = (*rest, 0, 0, 0)
        return ask(host, port, family, kind, protocol, socket.AI_NUMERICHOST)

    def read_ipv4(host: str) -> str:
        return socket.inet_ntoa(socket.inet_aton(host))

    instead = {
        "getaddrinfo": read,
        "gethostbyname": read_ipv4,
        "gethostbyaddr": read_ipv4,
    }
    before = {name: getattr(socket, name) for name in instead}
    resolvers, conf.neighbor.resolvers = conf.neighbor.resolvers, {}
    log = logging.getLogger("scapy")
    was_disabled, log.disabled = log.disabled, True
    runtime = logging.getLogger("scapy.runtime")
    runtime_was, runtime.disabled = runtime.disabled, True
    try:
        for name, function in instead.items():
            setattr(socket, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(socket, name, function)
        conf.neighbor.resolvers = resolvers
        log.disabled, runtime.disabled = was_disabled, runtime_was


def _build(packet: Any, sizes: Sequence[int]) -> list[bytes]:
    """Return all frames of a packet.

    Raises:
        ConfigError: it is none for a wire, or they are too many.
    """
    name = type(packet).__name__
    if name not in FIRST:
        raise ConfigError(f"packet: it begins with {name}, not with Ether")
    try:
        every = (_fill(one, size) for one in packet for size in sizes or [0])
        frames = list(islice(every, MOST_PACKETS + 1))
    except (ConfigError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever scapy makes of odd values
        raise ConfigError(f"packet: scapy cannot build it: {reason(error)}") from None
    if not frames:
        raise ConfigError("packet: no packet comes of it")
    if len(frames) > MOST_PACKETS:
        raise ConfigError(
            f"packet: stands for more than {MOST_PACKETS}; "
            "ranges of addresses and ports are options"
        )
    return frames


def _fill(packet: Any, size: int) -> bytes:
    """Return a packet's frame, with zeros for payload up to a size with FCS."""
    frame = bytes(packet)
    check_range("packet: bytes without FCS", len(frame), LEAST_FRAME, MOST_FRAME)
    missing = size - FCS_SIZE - len(frame)
    if not size or not missing:
        return frame
    if missing < 0:
        n = len(frame) + FCS_SIZE
        raise ConfigError(f"packet: {n} bytes with FCS are more than --size {size}")
    return bytes(packet / bytes(missing))


class _Reader:
    """Makes packets of a syntax tree.

    Args:
        layers: scapy's, by name.
    """

    def __init__(self, layers: dict[str, Any]) -> None:
        self._layers = layers

    def packet(self, node: ast.expr, depth: int) -> Any:
        """Return a packet of one layer or more."""
        parts = [node]
        while isinstance(parts[-1], ast.BinOp) and isinstance(parts[-1].op, ast.Div):
            join = parts.pop()
            assert isinstance(join, ast.BinOp)  # noqa: S101 - for the types
            parts += [join.right, join.left]
            if len(parts) > MOST_LAYERS:
                self._fail(node, f"more than {MOST_LAYERS} layers")
        result = None
        for part in reversed(parts):
            layer = self._part(part, depth, is_first=result is None)
            result = layer if result is None else result / layer
        return result

    def _part(self, node: ast.expr, depth: int, *, is_first: bool) -> Any:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return self.packet(node, self._deeper(node, depth))  # in brackets
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            if is_first:
                self._fail(node, "a payload with nothing in front of it")
            return self._layers["Raw"](load=_as_bytes(node.value))
        if not isinstance(node, ast.Call):
            self._refuse(node)
        return self._layer(node, depth)

    def _layer(self, node: ast.Call, depth: int) -> Any:
        if not isinstance(node.func, ast.Name):
            self._refuse(node.func)
        name = node.func.id
        if name not in self._layers:
            self._fail(node.func, f'"{name:.{MOST_REPEATED}}" is no layer of scapy')
        cls = self._layers[name]
        values = dict(DEFAULTS.get(name, {}))
        if node.args and name in PAYLOADS:
            values["load"] = self._value(node.args[0], depth)
        elif node.args:
            self._fail(node.args[0], f"a value without the name of its field in {name}")
        known = {field.name: field for field in cls.fields_desc}
        for keyword in node.keywords:
            if keyword.arg is None:
                self._fail(keyword.value, "a star is not allowed")
            if keyword.arg not in known:
                field = f'"{keyword.arg:.{MOST_REPEATED}}"'
                self._fail(keyword.value, f"{name} has no field {field}")
            value = self._value(keyword.value, depth)
            self._check(keyword.value, known[keyword.arg], value)
            values[keyword.arg] = value
        return self._made(node, lambda: cls(**values))

    def _check(self, node: ast.expr, field: Any, value: Any) -> None:
        """Refuse a value that scapy takes for something else, or for nothing."""
        if _is_mac(field) and not _are_macs(value):
            self._fail(node, f"{value!r:.20} is no MAC address")
        if (most := _address_bits(field)) and not _are_prefixes(value, most):
            self._fail(node, f"a prefix has 0 to {most} bits")
        if not field.islist and _stands_for_none(value):
            self._fail(node, f"{field.name} is empty: no packet comes of it")

    def _value(self, node: ast.expr, depth: int) -> Any:
        depth = self._deeper(node, depth)
        if isinstance(node, ast.Call) or (
            isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        ):
            return self.packet(node, depth)
        if isinstance(node, ast.List | ast.Tuple):
            values = [self._value(item, depth) for item in node.elts]
            return tuple(values) if isinstance(node, ast.Tuple) else values
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node, sign = node.operand, -1
            if not isinstance(node, ast.Constant) or type(node.value) is not int:
                self._refuse(node)
        if not isinstance(node, ast.Constant) or node.value is ...:
            self._refuse(node)
        if type(node.value) is int:
            if node.value.bit_length() > MOST_BITS:
                self._fail(node, f"a number of more than {MOST_BITS} bits")
            return sign * node.value
        return node.value

    def _made(self, node: ast.AST, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except socket.gaierror:
            self._fail(node, "an address is no address; names are not looked up")
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever scapy makes of odd values
            raise ConfigError(f"packet: {reason(error)}{_where(node)}") from None

    def _deeper(self, node: ast.AST, depth: int) -> int:
        if depth == MOST_DEPTH:
            self._fail(node, f"nested deeper than {MOST_DEPTH}")
        return depth + 1

    def _refuse(self, node: ast.AST) -> NoReturn:
        kind = type(node).__name__
        what = CALLED.get(kind, f"{kind.lower()}")
        if isinstance(node, ast.Name):
            what = f'the name "{node.id:.{MOST_REPEATED}}"'
        elif isinstance(node, ast.Constant):
            what = f"{node.value!r:.20}"
        raise ConfigError(
            f"packet: {what} is not allowed{_where(node)}; "
            'only layers of scapy, literals for their fields, and "/" are'
        )

    def _fail(self, node: ast.AST, what: str) -> NoReturn:
        raise ConfigError(f"packet: {what}{_where(node)}")


def _is_mac(field: Any) -> bool:
    from scapy.fields import MACField

    return isinstance(getattr(field, "fld", field), MACField)


def _are_macs(value: Any) -> bool:
    """Return whether it is a MAC address; scapy would take any string for one."""
    if isinstance(value, list):
        return all(map(_are_macs, value))
    return value is None or (isinstance(value, str) and bool(MAC.fullmatch(value)))


def _address_bits(field: Any) -> int:
    """Return the bits of the IP addresses that a field has, 0: it has none."""
    from scapy.fields import IP6Field, IPField

    kinds = {IPField: 32, IP6Field: 128}
    inner = getattr(field, "fld", field)
    return next((n for kind, n in kinds.items() if isinstance(inner, kind)), 0)


def _are_prefixes(value: Any, most: int) -> bool:
    """Return whether all prefixes among addresses have a length that there is."""
    if isinstance(value, list):
        return all(_are_prefixes(one, most) for one in value)
    if not isinstance(value, str) or "/" not in value:
        return True
    length = value.partition("/")[2]
    return length.isdecimal() and len(length) <= MOST_DIGITS and int(length) <= most


def _stands_for_none(value: Any) -> bool:
    """Return whether it is an empty list, or a range whose last is before its first."""
    if isinstance(value, tuple):
        is_range = len(value) == 2 and all(type(one) is int for one in value)  # noqa: PLR2004
        return is_range and value[0] > value[1]
    return isinstance(value, list) and all(map(_stands_for_none, value))


def _where(node: ast.AST) -> str:
    return f", at character {getattr(node, 'col_offset', 0) + 1}"


def _as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
