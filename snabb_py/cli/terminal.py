"""What a terminal may have, and what is said there besides what was asked for.

Words are the user's, or anybody's: a path has any bytes, and a name of somebody
else's process whatever he likes.
"""

import contextlib
import re
import sys

#: Halves of characters that stand for no byte (PEP 383).
_NO_BYTES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def printable(word: str) -> str:
    """Return a word of the user's as Unicode has it.

    A path may have any bytes: those that are no UTF-8 are in it as halves of
    characters, which neither JSON nor a terminal takes.
    """
    word = _NO_BYTES.sub("\ufffd", word)
    return word.encode(errors="surrogateescape").decode(errors="replace")


def one_line(text: str) -> str:
    """Return a text as one line that a terminal may have: the rest of it escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def shown(word: str) -> str:
    """Return a word of somebody else's as a terminal may have it."""
    return one_line(printable(word))


def complain(line: str, *below: str) -> None:
    """Say something besides what is asked for: a line on stderr, and lines below it."""
    with contextlib.suppress(OSError):  # nobody listens: no reason to stop
        lines = [f"snabb-py: {line}", *below]
        print(*map(shown, lines), sep="\n", file=sys.stderr, flush=True)
