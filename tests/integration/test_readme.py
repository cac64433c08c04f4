"""What the README shows works as printed."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_example_app_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "'drop-app': 500" in done.stdout


def test_every_make_target_named_exists() -> None:
    named = set(re.findall(r"make ([a-z]+)", README.read_text()))
    makefile = README.with_name("Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert named - {"and"} <= targets


def test_the_checks_shown_pass() -> None:
    commands = re.findall(
        r"^    snabb-py (nfv (?:check|qemu) [^#\n]*)", README.read_text(), re.MULTILINE
    )
    assert len(commands) == 2
    for command in commands:
        subprocess.run(
            [sys.executable, "-m", "snabb_py", *command.split()],
            check=True, capture_output=True, cwd=README.parent, timeout=60,
        )  # fmt: skip


def test_it_names_every_document() -> None:
    documents = {path.name for path in (README.parent / "docs").iterdir()}
    assert set(re.findall(r"`docs/([\w.]+)`", README.read_text())) == documents
