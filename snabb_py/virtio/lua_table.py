"""Lua tables read as data: `return { {...}, ... }`, and nothing is ever executed.

The subset of Lua that a table without expressions is written in: strings of all
quotings, numbers, booleans, nil, tables, comments (Lua 5.4 reference manual, 3.1 and
3.4.9). Whatever would have to be executed is refused where it stands. Imports errors.
"""

import bisect
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from snabb_py.errors import ConfigError

MAX_DEPTH: Final = 50


@dataclass(frozen=True)
class Node:
    """A value and the line that it begins in.

    `value` is None, a bool, int, float, str, a list of nodes or a dict of nodes by
    their keys; an empty table is a list.
    """

    value: "bool | int | float | str | list[Node] | dict[str, Node] | None"
    line: int


class Lines:
    """The lines of a text; a large one is not counted through again for each value."""

    def __init__(self, text: str) -> None:
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def of(self, at: int) -> int:
        """Return the line that a position is in, from 1 on."""
        return bisect.bisect_left(self._ends, at) + 1


KEYWORDS: Final = {
    *("and", "break", "do", "else", "elseif", "end", "false", "for", "function"),
    *("goto", "if", "in", "local", "nil", "not", "or", "repeat", "return", "then"),
    *("true", "until", "while"),
}
CONSTANTS: Final = {"nil": None, "true": True, "false": False}
ESCAPES: Final = dict(zip("abfnrtv\\\"'\n", "\a\b\f\n\r\t\v\\\"'\n", strict=True))

TOKEN: Final = re.compile(
    r"(?P<space>\s+|--(?!\[=*\[)[^\n]*)"
    r"|(?P<comment>--\[(?P<level>=*)\[)"
    r"|(?P<number>(?:0[xX][0-9a-fA-F.]*(?:[pP][+-]?\d+)?|\.?\d[\d.]*(?:[eE][+-]?\d+)?)"
    r"\w*)"
    r"|(?P<name>[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)*)"
    r"|(?P<long>\[(?P<depth>=*)\[)"
    r"""|(?P<quote>["'])"""
    r"|(?P<symbol>\.\.\.?|==|~=|<=|>=|//|::|<<|>>|.)",
    re.ASCII,
)
NUMBER: Final = re.compile(r"\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?")
HEX: Final = re.compile(
    r"0[xX](?:[0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)(?:[pP][+-]?\d+)?"
)
ESCAPE: Final = re.compile(
    r"x(?P<hex>[0-9a-fA-F]{2})|(?P<decimal>\d{1,3})|u\{(?P<unicode>[0-9a-fA-F]{1,6})\}"
    r"|(?P<skip>z)|(?P<plain>\n|[abfnrtv\\\"'])",
    re.ASCII,
)


@dataclass(frozen=True)
class Token:
    """What stands at a position: its kind is a group of TOKEN, or "end"."""

    kind: str
    text: str
    at: int
    value: str | int | float | None = None


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.file = file
        first = re.match(r"\ufeff?(#[^\n]*)?", self.text)
        self.at = first.end() if first else 0
        self.line_of = Lines(self.text).of
        self.token = Token("end", "", 0)
        self.step()

    def fail(self, at: int, what: str) -> NoReturn:
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        line = self.line_of(at)
        raise ConfigError(f"{self.file}:{line}: column {column}: {what}")

    def refuse(self, token: Token) -> NoReturn:
        """Say that something is no data."""
        self.fail(
            token.at,
            f"{token.text} would have to be executed; only data is read here: "
            "strings, numbers, true, false, nil and tables of them",
        )

    # -- tokens ----------------------------------------------------------------

    def step(self) -> Token:
        """Return the current token and go on to the next."""
        token, self.token = self.token, self.next_token()
        return token

    def next_token(self) -> Token:
        while match := TOKEN.match(self.text, self.at):
            at, kind, self.at = match.start(), match.lastgroup or "", match.end()
            if match["space"]:
                continue
            if match["comment"]:
                self.long_string(at, match["level"])
                continue
            if match["long"]:
                return Token("string", "[[", at, self.long_string(at, match["depth"]))
            if match["quote"]:
                value = self.quoted(at, match["quote"])
                return Token("string", self.text[at : self.at], at, value)
            if match["number"]:
                return Token("number", match[0], at, self.number(at, match[0]))
            return Token(kind, match[0], at)
        return Token("end", "the end of the file", len(self.text))

    def number(self, at: int, text: str) -> int | float:
        if HEX.fullmatch(text):
            is_whole = not set(text) & set(".pP")
            try:
                return int(text, 16) if is_whole else float.fromhex(text)
            except OverflowError:
                return float("inf")
        if not NUMBER.fullmatch(text):
            self.fail(at, f"{text} is no number")
        return int(text) if text.isdigit() and len(text) < 20 else float(text)  # noqa: PLR2004 - an int of Lua has 19 digits

    def long_string(self, at: int, level: str) -> str:
        end = self.text.find(f"]{level}]", self.at)
        if end < 0:
            self.fail(at, f"begins here and has no end, ]{level}]")
        value, self.at = self.text[self.at : end], end + len(level) + 2
        return value.removeprefix("\n")

    def quoted(self, at: int, quote: str) -> str:
        parts = bytearray()
        while True:
            end = self.at
            while end < len(self.text) and self.text[end] not in (quote, "\\", "\n"):
                end += 1
            parts += self.text[self.at : end].encode()
            self.at = end + 1
            if end >= len(self.text) or self.text[end] == "\n":
                self.fail(at, "a string begins here and does not end in its line")
            if self.text[end] == quote:
                break
            parts += self.escape(end)
        try:
            return parts.decode()
        except UnicodeDecodeError:
            self.fail(at, "the string is no UTF-8")

    def escape(self, at: int) -> bytes:
        match = ESCAPE.match(self.text, at + 1)
        if not match:
            self.fail(at, f"\\{self.text[at + 1 : at + 2]} is no escape sequence")
        self.at = match.end()
        if match["hex"]:
            return bytes([int(match["hex"], 16)])
        if match["plain"]:
            return ESCAPES[match["plain"]].encode()
        if match["skip"]:
            while self.text[self.at : self.at + 1].isspace():
                self.at += 1
            return b""
        try:
            if match["decimal"]:
                return bytes([int(match["decimal"])])
            return chr(int(match["unicode"], 16)).encode()
        except ValueError:
            self.fail(at, f"\\{match[0]} is no character")

    # -- values ----------------------------------------------------------------

    def file_value(self) -> Node:
        token = self.token
        if token.kind == "end":
            self.fail(token.at, "the file is empty: expected return { ... }")
        if token.text != "return":
            if token.kind == "name":
                self.refuse(token)
            self.fail(token.at, f"expected return {{ ... }}, not {token.text}")
        self.step()
        value = self.value(0)
        if self.token.text == ";":
            self.step()
        if self.token.kind != "end":
            self.refuse_operator("the end of the file")
        return value

    def value(self, depth: int) -> Node:  # noqa: RET503 - fail() does not return
        token = self.step()
        line = self.line_of(token.at)
        match token.kind, token.text:
            case (("string" | "number"), _):
                return Node(token.value, line)
            case "symbol", "{":
                return self.table(token, depth + 1)
            case "symbol", "-" if self.token.kind == "number":
                number = self.step().value
                return Node(-number if isinstance(number, int | float) else 0, line)
            case "name", "nil" | "true" | "false":
                return Node(CONSTANTS[token.text], line)
            case ("name", _) | ("symbol", "(" | "-" | "#" | "~" | "..."):
                self.refuse(token)
            case _:
                self.fail(token.at, f"expected a value, not {token.text}")

    def table(self, begin: Token, depth: int) -> Node:
        if depth > MAX_DEPTH:
            self.fail(begin.at, f"more than {MAX_DEPTH} tables in each other")
        items: list[Node] = []
        fields: dict[str, Node] = {}
        while self.token.text != "}" or self.token.kind != "symbol":
            if self.token.kind == "end":
                self.fail(begin.at, "the table that begins here has no }")
            at = self.token.at
            key = self.key(len(items) + 1)
            value = self.value(depth)
            if key is None:
                items.append(value)
            elif key in fields:
                self.fail(at, f"{key} is there twice")
            else:
                fields[key] = value
            if items and fields:
                self.fail(at, "a list and names in one table")
            if self.token.kind == "symbol" and self.token.text in {",", ";"}:
                self.step()
            elif self.token.text != "}" and self.token.kind != "end":
                self.refuse_operator('"," or "}"')
        self.step()
        return Node(fields or items, self.line_of(begin.at))

    def key(self, position: int) -> str | None:
        """Return the name of a field; None: the next item of a list."""
        if self.token.kind == "symbol" and self.token.text == "[":
            self.step()
            token = self.token
            value = self.value(0).value
            if self.token.text != "]":
                self.refuse_operator('"]"')
            self.step()
            self.expect_equals()
            if isinstance(value, str):
                return value
            if value != position or isinstance(value, bool):
                self.fail(token.at, f"expected a name or {position} in the brackets")
            return None
        if self.token.kind != "name" or self.token.text in CONSTANTS:
            return None
        token = self.step()
        if self.token.text != "=" or "." in token.text or token.text in KEYWORDS:
            self.refuse(token)
        self.expect_equals()
        return token.text

    def expect_equals(self) -> None:
        if self.token.text != "=" or self.token.kind != "symbol":
            self.fail(self.token.at, f'expected "=", not {self.token.text}')
        self.step()

    def refuse_operator(self, expected: str) -> NoReturn:
        """Fail at what stands behind a value."""
        token = self.token
        starts_value = token.kind in {"string", "number"} or token.text == "{"
        if token.kind == "end":
            self.fail(token.at, f"expected {expected}, not {token.text}")
        if token.kind == "name" and token.text not in KEYWORDS:
            starts_value = True
        if starts_value or token.text in {"}", "]", "="}:
            self.fail(token.at, f"expected {expected} before {token.text}")
        self.refuse(token)


def parse(text: str, file: str) -> Node:
    """Return what a file's `return` gives.

    Args:
        text: its contents.
        file: its name, for errors.

    Raises:
        ConfigError: it is no such table, with line and column.
    """
    return _Parser(text, file).file_value()
