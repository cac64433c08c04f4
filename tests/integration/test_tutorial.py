"""The tutorial's files do what it says; and the laws of libraries of apps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from snabb_py.engine.library import INCLUDE, operations
from snabb_py.errors import ConfigError

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
FILE = re.compile(r"```\w+\n(?:# (\S+)|/\* (\S+) \*/)\n(.*?)```", re.DOTALL)
#: A command after the prompt, and what it prints: up to an empty line.
COMMAND = re.compile(r"^    \$ (.*)\n((?:    [^$ ].*\n)*)", re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the tutorial's files in it."""
    for first, second, text in FILE.findall(TUTORIAL):
        (tmp_path / (first or second)).write_text(text)
    return tmp_path


def compiled(place: Path, *options: str) -> Path:
    library = place / "sample.so"
    subprocess.run(
        [
            *("cc", "-O3", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
            *options,
            *(f"-I{INCLUDE}", "-o", str(library), str(place / "sample.c")),
        ],
        check=True,
    )
    return library


def test_it_does_what_it_says(place: Path) -> None:
    commands = COMMAND.findall(TUTORIAL)
    assert len(commands) == 4
    expected = [line.strip() for _, output in commands for line in output.splitlines()]
    script = "\n".join(command for command, _ in commands)
    done = subprocess.run(
        ["bash", "-ec", f'python() {{ "{sys.executable}" "$@"; }}\n{script}'],
        check=True,
        capture_output=True,
        text=True,
        cwd=place,
        timeout=120,
    )
    assert done.stdout.splitlines() == expected
    assert len(expected) == 2


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ("SNABB_LIBRARY\n", "", "SNABB_LIBRARY is not in it"),
        ("sample_ops", "other_ops", r"no SNABB_APP\(sample_ops\) in it"),
        ("++*seen", "++*seen + unheard_of()", "cannot be loaded: .*unheard_of"),
    ],
)
def test_a_library_that_will_not_do(
    place: Path, was: str, becomes: str, message: str
) -> None:
    source = place / "sample.c"
    text = source.read_text().replace(was, becomes)
    source.write_text("extern int unheard_of(void);\n" + text)
    with pytest.raises(ConfigError, match=message):
        operations(compiled(place), "sample_ops")


def test_a_library_of_another_version_is_refused(place: Path) -> None:
    text = (INCLUDE / "snabb_py" / "engine" / "engine_abi.h").read_text()
    header = place / "snabb_py" / "engine" / "engine_abi.h"
    header.parent.mkdir(parents=True)
    was = "    uint64_t *counters; /* in shared memory, named by the class */\n"
    assert was in text
    header.write_text(text.replace(was, f"    uint64_t more;\n{was}"))
    library = compiled(place, f"-I{place}")
    with pytest.raises(ConfigError, match="another version of snabb-py"):
        operations(library, "sample_ops")


def test_what_is_no_library(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*No such file"):
        operations(tmp_path / "none.so", "sample_ops")
    (tmp_path / "text.so").write_text("text")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        operations(tmp_path / "text.so", "sample_ops")
    os.mkfifo(tmp_path / "fifo.so")
    with pytest.raises(ConfigError, match="cannot be loaded: is no file"):
        operations(tmp_path / "fifo.so", "sample_ops")


def test_a_library_without_its_end(place: Path) -> None:
    """The loader would map what is not there: SIGBUS."""
    whole = compiled(place).read_bytes()
    for i, length in enumerate((10, 64, 400, 9000, len(whole) // 2)):
        part = place / f"part{i}.so"
        part.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="cannot be loaded: its end is missing"):
            operations(part, "sample_ops")
