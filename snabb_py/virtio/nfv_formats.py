"""The three formats of an nfv config: Lua as Snabb has it, TOML, JSON.

    return { { port_id = "A", vlan = 43 }, ... }    Lua, read as data (lua_table.py)
    [[port]]                                        TOML
    [ {"port_id": "A", "vlan": 43}, ... ]           JSON; or {"port": [ ... ]}

All are read into nodes that know their line. Imports errors and lua_table.
"""

import bisect
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from snabb_py.errors import ConfigError
from snabb_py.virtio import lua_table
from snabb_py.virtio.lua_table import Node

FORMATS: Final = ("lua", "toml", "json")
LIST_KEY: Final = "port"

Values = Mapping[str, Any]  #: a port's keys and values: str, int, float, bool, lists


def detect(text: str, file: str) -> str:
    """Return the format of a file: by suffix, else by how it begins."""
    suffix = file.rpartition(".")[2].lower()
    if suffix in FORMATS:
        return suffix
    begin = text.lstrip("\ufeff \t\r\n")
    if re.match(r"\{|\[\s*[\]{]", begin):
        return "json"
    is_toml = re.search(r"^\s*(\[\[\s*port\b|port\s*=)", begin, re.MULTILINE)
    return "toml" if is_toml else "lua"


def parse(text: str, file: str) -> Node:
    """Return the list of ports that a file holds; not yet whether they make sense.

    Raises:
        ConfigError: the format is not kept, with line and, where known, column.
    """
    match detect(text, file):
        case "json":
            node = _unwrap(_Json(text, file).parse(), file)
        case "toml":
            node = _unwrap(_parse_toml(text, file), file)
        case _:
            node = lua_table.parse(text, file)
    if not isinstance(node.value, list):
        raise ConfigError(f"{file}:{node.line}: expected a list of ports")
    return node


def _unwrap(node: Node, file: str) -> Node:
    """Return the list of ports out of a table that has nothing else."""
    if not isinstance(node.value, dict):
        return node
    for key, value in node.value.items():
        if key != LIST_KEY:
            raise ConfigError(
                f'{file}:{value.line}: unknown key "{key}"; did you mean "{LIST_KEY}"?'
            )
    if LIST_KEY not in node.value:
        # What a full disk or a careless copy leaves must not take all ports away.
        raise ConfigError(
            f'{file}:{node.line}: names no port; "{LIST_KEY} = []" is for none'
        )
    return node.value[LIST_KEY]


# -- JSON ----------------------------------------------------------------------


class _Json:
    """JSON with lines: objects and arrays are walked here, the rest is json's."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.file = file
        self.decoder = json.JSONDecoder()
        self.line_of = lua_table.Lines(self.text).of

    def parse(self) -> Node:
        try:
            node, at = self.value(self.skip(0), 0)
        except json.JSONDecodeError as error:
            where = f"{self.file}:{error.lineno}: column {error.colno}"
            raise ConfigError(f"{where}: {error.msg}") from None
        if at != len(self.text):
            raise self.error(at, "expected the end of the file")
        return node

    def error(self, at: int, what: str) -> ConfigError:
        return ConfigError(f"{self.file}:{self.line_of(at)}: {what}")

    def skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in " \t\r\n":
            at += 1
        return at

    def value(self, at: int, depth: int) -> tuple[Node, int]:
        line = self.line_of(at)
        first = self.text[at : at + 1]
        if depth > lua_table.MAX_DEPTH:
            raise self.error(
                at, f"more than {lua_table.MAX_DEPTH} values in each other"
            )
        if first == "{":
            fields: dict[str, Node] = {}
            for begin in self.members(at, "}"):
                key, end = self.key(begin)
                if key in fields:
                    raise self.error(begin, f'"{key}" is there twice')
                fields[key], self.end = self.value(end, depth + 1)
            return Node(fields, line), self.skip(self.end)
        if first == "[":
            items: list[Node] = []
            for begin in self.members(at, "]"):
                item, self.end = self.value(begin, depth + 1)
                items.append(item)
            return Node(items, line), self.skip(self.end)
        try:
            value, end = self.decoder.raw_decode(self.text, at)
        except json.JSONDecodeError:
            raise
        except ValueError:  # Python reads no number of thousands of digits
            raise self.error(at, "the number is too long") from None
        return Node(value, line), self.skip(end)

    def key(self, at: int) -> tuple[str, int]:
        if self.text[at : at + 1] != '"':
            raise json.JSONDecodeError('expected a key in "quotes"', self.text, at)
        key, end = self.decoder.raw_decode(self.text, at)
        end = self.skip(end)
        if self.text[end : end + 1] != ":":
            raise json.JSONDecodeError('expected ":" behind a key', self.text, end)
        return key, self.skip(end + 1)

    def members(self, at: int, close: str) -> Iterator[int]:
        """Yield where each member begins; its end comes in self.end."""
        at = self.skip(at + 1)
        if self.text[at : at + 1] == close:
            self.end = at + 1
            return
        while True:
            yield at
            at = self.end
            if self.text[at : at + 1] == close:
                self.end = at + 1
                return
            if self.text[at : at + 1] != ",":
                what = f'expected "," or "{close}"'
                raise json.JSONDecodeError(what, self.text, at)
            at = self.skip(at + 1)


# -- TOML ----------------------------------------------------------------------

_HEADER = re.compile(r"\s*\[\[\s*[\"']?port[\"']?\s*\]\]")
_FIELD = re.compile(r"\s*(?:\[\s*port\s*\.\s*)?[\"']?([\w-]+)[\"']?\s*[=.\]]", re.ASCII)
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
#: A key of more parts than a value may have depth; tomllib takes a time for it that
#: grows with their square: 3 s for 8000.
_LONG_KEY = re.compile(
    rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{lua_table.MAX_DEPTH}}}"
)


def _parse_toml(text: str, file: str) -> Node:
    """Return TOML with lines, which tomllib does not tell: they are looked up."""
    if found := _LONG_KEY.search(text):
        line = text.count("\n", 0, found.start()) + 1
        most = lua_table.MAX_DEPTH
        raise ConfigError(f"{file}:{line}: a key of more than {most} parts")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        match = re.search(r" \(at line (\d+), column (\d+)\)$", message)
        if not match:  # (at end of document)
            line = text.count("\n") + 1
            raise ConfigError(f"{file}:{line}: {message}") from None
        what = f"column {match[2]}: {message[: match.start()]}"
        raise ConfigError(f"{file}:{match[1]}: {what}") from None
    except RecursionError:
        raise ConfigError(f"{file}:1: too many values in each other") from None
    except ValueError:  # Python reads no number of thousands of digits
        raise ConfigError(f"{file}:1: a number is too long") from None
    places = _Places(text)
    headers = places.headers
    ports = values.get(LIST_KEY)
    try:
        if not ports or not isinstance(ports, list) or len(headers) != len(ports):
            return places.locate(values, 1, places.nlines)
        bounds = [*headers, places.nlines + 1]
        items = [
            places.locate(port, bounds[i], bounds[i + 1] - 1)
            for i, port in enumerate(ports)
        ]
        rest = {key: value for key, value in values.items() if key != LIST_KEY}
        fields = {key: places.locate(item, 1, 1) for key, item in rest.items()}
    except RecursionError:  # a key of a thousand dots
        raise ConfigError(f"{file}:1: too many values in each other") from None
    return Node({**fields, LIST_KEY: Node(items, headers[0])}, 1)


class _Places:
    """The lines of a TOML file: where ports begin, and which keys are where."""

    def __init__(self, text: str) -> None:
        lines = text.splitlines()
        self.nlines = len(lines)
        self.headers = [n for n, line in enumerate(lines, 1) if _HEADER.match(line)]
        self._fields: dict[str, list[int]] = {}
        for n, line in enumerate(lines, 1):
            if match := _FIELD.match(line):
                self._fields.setdefault(match[1], []).append(n)

    def find(self, key: str, first: int, last: int) -> int | None:
        """Return the first of these lines that a key is in."""
        places = self._fields.get(key, [])
        i = bisect.bisect_left(places, first)
        return places[i] if i < len(places) and places[i] <= last else None

    def locate(self, value: object, first: int, last: int) -> Node:
        """Return nodes for values; keys are looked for in the lines first..last."""
        if isinstance(value, list):
            return Node([self.locate(item, first, last) for item in value], first)
        if isinstance(value, bool | int | float | str):
            return Node(value, first)
        if not isinstance(value, dict):
            return Node(str(value), first)  # a date: no key takes one
        fields = {}
        for key, item in value.items():
            line = self.find(key, first, last)
            fields[key] = self.locate(item, line or first, line or last)
        return Node(fields, first)


# -- writing -------------------------------------------------------------------


def write(ports: Sequence[Values], form: str) -> str:
    """Return ports in one of the formats."""
    if form == "json":
        return json.dumps(list(ports), indent=2, ensure_ascii=False) + "\n"
    if form == "toml":
        blocks = (
            "".join(f"{key} = {_toml(value)}\n" for key, value in port.items())
            for port in ports
        )
        text = "\n".join(f"[[{LIST_KEY}]]\n{block}" for block in blocks)
        return text or f"{LIST_KEY} = []\n"
    rows = (
        "".join(f"    {key} = {_lua(value)},\n" for key, value in port.items())
        for port in ports
    )
    return "return {\n" + "".join(f"  {{\n{row}  }},\n" for row in rows) + "}\n"


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, str):
        # As in JSON, which leaves a character alone that TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _lua(value: object) -> str:
    if isinstance(value, list | tuple):
        return "{ " + ", ".join(map(_lua, value)) + " }"
    if isinstance(value, str):
        plain = value.replace("\\", "\\\\").replace('"', '\\"')
        return (
            '"' + re.sub(r"[\0-\x1f\x7f]", lambda m: f"\\{ord(m[0]):03}", plain) + '"'
        )
    return str(value).lower() if isinstance(value, bool) else repr(value)
