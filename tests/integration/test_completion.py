"""What a shell offers to complete, and that it costs no program's import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snabb_py import cli
from snabb_py.cli import lwaftr

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
    assert not [name for name in imported if name.startswith("snabb_py.cli.")]
    assert "snabb_py._native" not in imported


def test_bash_takes_it(tmp_path: Path) -> None:
    script = tmp_path / "snabb-py"
    script.write_text(
        subprocess.run(
            [SNABB],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "_SNABB_PY_COMPLETE": "bash_source"},
        ).stdout
    )
    path = f"{SNABB.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", PRESS.format(script=script, words="snabb-py si", last=1)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": path},
        timeout=60,
    )
    assert done.stdout.split() == ["sim82599"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(shell: str) -> None:
    done = subprocess.run(
        [SNABB],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "_SNABB_PY_COMPLETE": f"{shell}_source"},
    )
    assert f"_SNABB_PY_COMPLETE={shell}_complete" in done.stdout
