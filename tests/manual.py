"""The manual in docs/, taken apart: its tables, its files and its commands."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_HEADING = re.compile(r"#+ (.*)")
_FILE = re.compile(r"```\w*\n(?:# |-- |// )([\w./-]+)(?:: .*)?\n.*?```", re.DOTALL)
_BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")
#: Programs that run until they are ended.
_ENDLESS = {"forward", "run", "traffic", "sim82599"}


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        heading: that it stands under, without #.
        names: what is in `code` in its first cell.
        cells: the others, as they stand.
    """

    heading: str
    names: tuple[str, ...]
    cells: tuple[str, ...]


def read(name: str) -> str:
    """Return a document's text."""
    return (ROOT / "docs" / name).read_text()


def code(text: str) -> tuple[str, ...]:
    """Return what is in `code` in a piece of text."""
    return tuple(_CODE.findall(text))


def rows(name: str) -> Iterator[Row]:
    """Yield the rows of a document's tables, those of headings and rules aside."""
    heading, is_body = "", False
    for line in _BLOCK.sub("", read(name)).splitlines():
        if match := _HEADING.match(line):
            heading = match[1]
        if not line.startswith("|"):
            is_body = False
        elif line.startswith("|---"):
            is_body = True
        elif is_body:
            first, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
            yield Row(heading, code(first), tuple(cells))


def blocks(name: str, language: str) -> list[str]:
    """Return the blocks of a language."""
    return [text for kind, text in _BLOCK.findall(read(name)) if kind == language]


def write_files(name: str, place: Path) -> list[Path]:
    """Write the blocks that begin with a comment that is a file's name."""
    paths = []
    for match in _FILE.finditer(read(name)):
        text = match[0].partition("\n")[2].removesuffix("```")
        paths.append(place / Path(match[1]).name)
        paths[-1].write_text(text)
    return paths


def commands(name: str, program: str = "snabb-py") -> list[list[str]]:
    """Return the arguments of a program's calls that a document shows."""
    shown = re.compile(rf"^    (?:\S.* )?({program} [\w-].*)$", re.MULTILINE)
    lines = shown.findall(read(name))
    return [shlex.split(line, comments=True)[1:] for line in lines]


def run(arguments: list[str], place: Path) -> str:
    """Run a program of snabb-py in a directory; return what it printed.

    What would run until it is ended does so for a moment.
    """
    if _ENDLESS.intersection(arguments):
        arguments = [*arguments, "--duration", "0.1"]
    return subprocess.run(
        [sys.executable, "-m", "snabb_py", *arguments],
        check=True, stdout=subprocess.PIPE, text=True, cwd=place, timeout=120,
    ).stdout  # fmt: skip
