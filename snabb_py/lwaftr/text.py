"""Configuration text: read token by token in C, errors with file, line and column.

Both languages are described in text_abi.h. Imports errors.
"""

import difflib
from typing import Any, Final, NamedTuple, NoReturn

from snabb_py._native import ffi, lib
from snabb_py.errors import ConfigError

#: Bytes of a token that an error shows.
SHOWN_MAX: Final = 40


class Word(NamedTuple):
    """A key or a value, and where it stands (bytes from the beginning)."""

    text: str
    at: int
    width: int


class Text:
    """A file's contents and how far they have been read.

    Args:
        data: the contents. C reads up to the zero byte that is behind every `bytes`.
        file: its name, for errors.
    """

    def __init__(self, data: bytes, file: str) -> None:
        self.data = data.removeprefix(b"\xef\xbb\xbf")
        self.file = file
        self.text: Any = ffi.new("struct text *")
        self._buffer: Any = ffi.from_buffer("char[]", self.data)
        self._words: Any = ffi.new("struct text_word[2]")
        lib.text_init(self.text, self._buffer, len(self.data))

    @property
    def at(self) -> int:
        """How many bytes have been read."""
        return int(self.text.at - self.text.begin)

    def next_statement(self) -> tuple[int, Word, Word]:
        """Return the kind of a statement, its key and, of a leaf, its value."""
        at = self.at
        kind = self.check(
            lib.text_next_statement(self.text, self._words, self._words + 1)
        )
        empty = Word("", at, 0)
        has_key = kind in {lib.TEXT_OPEN, lib.TEXT_LEAF}
        key = self._word(0) if has_key else empty
        return kind, key, self._word(1) if kind == lib.TEXT_LEAF else empty

    def next_key(self) -> Word | None:
        """Return a property's key; None: the text ends."""
        match self.check(lib.text_next_key(self.text, self._words)):
            case lib.TEXT_END:
                return None
            case lib.TEXT_CLOSE:
                self.fail(self.at - 1, 'expected a key, not "}"')
        return self._word(0)

    def next_value(self, *, is_string: bool) -> Word:
        """Return a property's value."""
        self.check(lib.text_next_value(self.text, self._words, is_string))
        return self._word(0)

    def _word(self, i: int) -> Word:
        word = self._words[i]
        data = ffi.unpack(word.begin, word.size) if word.size else b""
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.fail(word.at, "is no UTF-8 text")
        return Word(text, word.at, word.width)

    # -- errors ----------------------------------------------------------------

    def line_of(self, at: int) -> int:
        """Return the number of the line that a byte is in."""
        return self.data.count(b"\n", 0, at) + 1

    def fail(self, at: int, what: str) -> NoReturn:
        """Say what is wrong at a place.

        Raises:
            ConfigError: always.
        """
        begin = self.data.rfind(b"\n", 0, at) + 1
        column = len(self.data[begin:at].decode(errors="replace")) + 1
        raise ConfigError(f"{self.file}:{self.line_of(at)}:{column}: {what}")

    def expected(self, what: str, word: Word) -> NoReturn:
        """Say what should stand where a word stands."""
        self.fail(word.at, f"expected {what}, not {self._show(word.at, word.width)}")

    def unknown_key(self, key: Word, known: list[str]) -> NoReturn:
        """Say that a key is none of those that are known."""
        close = difflib.get_close_matches(key.text[:SHOWN_MAX], known, 1)
        hint = f'did you mean "{close[0]}"?' if close else f"known: {', '.join(known)}"
        shown = self._show(key.at, key.width)
        self.fail(key.at, f"unknown key {shown}; {hint}")

    def check(self, answer: int) -> int:
        """Return what C answered.

        Raises:
            ConfigError: it was an error.
        """
        if answer < 0:
            self.fail_with(self.text.error)
        return answer

    def fail_with(self, error: Any) -> NoReturn:
        """Say what an error of C's says, `struct text_error`."""
        what = ffi.string(error.message).decode(errors="replace")
        match error.kind:
            case lib.TEXT_NO_MEMORY:
                raise MemoryError
            case lib.TEXT_EXPECTED:
                shown = self._show(error.at, error.size)
                self.fail(error.at, f"expected {what}, not {shown}")
            case lib.TEXT_UNKNOWN_KEY:
                key = self.data[error.at : error.at + error.size]
                word = Word(key.decode(errors="replace"), error.at, error.size)
                self.unknown_key(word, what.split())
            case lib.TEXT_REPEATS:
                self.fail(error.at, f"{what} (line {self.line_of(error.other)})")
        self.fail(error.at, what)

    def _show(self, at: int, size: int) -> str:
        if size == 0:
            return "the end of the file" if at == len(self.data) else "nothing"
        shown = self.data[at : at + min(size, SHOWN_MAX)].decode(errors="replace")
        text = "".join(
            c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown
        )
        text += "..." if size > SHOWN_MAX else ""
        return text if text[:1] in {'"', "'"} and len(text) > 1 else f'"{text}"'
