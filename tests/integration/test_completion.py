"""What a shell offers to complete, and that it costs no program's import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from snabb_py import cli
from snabb_py.cli import lwaftr
from tests import manual

SNABB = Path(sys.executable).with_name("snabb-py")
#: What bash does when Tab is pressed.
PRESS = """
complete() {{ :; }}  # what is not interactive may lack it
source {script}
COMP_WORDS=({words}) COMP_CWORD={last}
_snabb_py_completion snabb-py
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(*words: str) -> list[str]:
    """Return what the last of these words may become."""
    done = subprocess.run(
        [SNABB],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "_SNABB_PY_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("snabb-py", *words)),
            "COMP_CWORD": str(len(words)),
        },
    )
    return [line.partition(",")[2] for line in done.stdout.split()]


def test_programs_are_offered() -> None:
    assert completed("") == sorted(cli.PROGRAMS)
    assert completed("lwaftr", "") == sorted(lwaftr.PROGRAMS)
    assert completed("forw") == ["forward"]
    assert completed("forwarder") == []


def test_options_are_offered() -> None:
    assert "--debug" in completed("-")
    assert completed("forward", "--hop") == ["--hops"]
    assert completed("nfv", "traffic", "--be") == ["--benchmark"]


@pytest.mark.parametrize(
    "words", [("forward",), ("forward", "null"), ("nfv", "traffic"),
              ("lwaftr", "run", "--v4"), ("lwaftr", "run", "--on-a-stick")],
)  # fmt: skip
def test_interfaces_that_exist_are_offered(words: tuple[str, ...]) -> None:
    assert completed(*words, "raw:l") == ["raw:lo"]
    assert {"null", "sim", "raw:lo"} <= set(completed(*words, ""))


def test_the_first_word_imports_no_program() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "snabb_py"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={
            **os.environ,
            "_SNABB_PY_COMPLETE": "bash_complete",
            "COMP_WORDS": "snabb-py ",
            "COMP_CWORD": "1",
        },
    )
    assert "forward" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "snabb_py.cli" in imported
    below = {name for name in imported if name.startswith("snabb_py.cli.")}
    assert below == {"snabb_py.cli.terminal", "snabb_py.cli.usage"}
    assert "snabb_py._native" not in imported


def test_it_is_installed_as_shown(tmp_path: Path) -> None:
    lines = re.findall(
        r"^    (_SNABB_PY_COMPLETE=(\w+)_source snabb-py > ~/(.*))$",
        manual.read("operators.md"),
        re.MULTILINE,
    )
    path = f"{SNABB.parent}:{os.environ['PATH']}"

    def bash(script: str) -> str:
        return subprocess.run(
            ["bash", "-c", script],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": str(tmp_path), "PATH": path},
            timeout=60,
        ).stdout

    assert {shell for _, shell, _ in lines} == {"bash", "zsh", "fish"}
    for command, shell, place in lines:
        (tmp_path / place).parent.mkdir(parents=True)
        bash(command)
        script = (tmp_path / place).read_text()
        assert f"_SNABB_PY_COMPLETE={shell}_complete" in script
        if shell == "bash":
            press = PRESS.format(script=tmp_path / place, words="snabb-py si", last=1)
            assert bash(press).split() == ["sim82599"]
