"""Who may import whom: the floors of the house, for Python and for C.

`cli` imports everything below it; `nic`, `virtio` and `lwaftr` import `apps` and
`engine`, never each other; `engine` imports nothing above it. scapy, pyroute2, rich
and prometheus_client are imported inside what uses them, so that `snabb-py --help` is
quick.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "snabb_py"

# A module's floor is the first name below the package: snabb_py.nic.registers is of
# "nic", snabb_py.errors of "errors"; the package itself is "__init__".
ENGINE = {"_native", "errors", "engine"}
APPS = ENGINE | {"apps"}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "__main__": {"cli"},
    "native_build": set(),
    "engine": ENGINE,
    "apps": APPS,
    "nic": APPS | {"nic"},
    "virtio": APPS | {"virtio"},
    "lwaftr": APPS | {"lwaftr"},
    "cli": APPS | {"__init__", "nic", "virtio", "lwaftr", "cli"},
}
C_FLOORS = {"engine", "apps", "nic", "virtio", "lwaftr"}
SLOW = {"prometheus_client", "pyroute2", "rich", "scapy"}

INCLUDE = re.compile(r'\s*#\s*include\s*"(.*)"')

Violations = Iterator[tuple[int, str]]


def find_violations(package: Path) -> list[str]:
    """Return what breaks the rules in a package, as "file:line: what"."""
    return [
        f"{path.relative_to(package)}:{line}: {wrong}"
        for path in sorted(package.rglob("*"))
        for line, wrong in check_file(path, package)
    ]


def check_file(path: Path, package: Path) -> Violations:
    floor = path.relative_to(package).with_suffix("").parts[0]
    if path.suffix == ".py":
        yield from check_python(path, floor, package)
    elif path.suffix in {".c", ".h"}:
        yield from check_c(path, floor)


def check_python(path: Path, floor: str, package: Path) -> Violations:
    module = path.relative_to(package.parent).with_suffix("").parts
    for statement, is_deferred in imports(ast.parse(path.read_text())):
        for name in imported_names(statement, module):
            if name[0] == package.name:
                yield from check_floor(floor, floor_of(name, package), statement.lineno)
            elif name[0] in SLOW and not is_deferred:
                yield statement.lineno, f"{name[0]} belongs inside what uses it"


def check_c(path: Path, floor: str) -> Violations:
    if floor not in C_FLOORS:
        yield 1, f"{floor} holds no C: nothing would compile it"
    for line, text in enumerate(path.read_text().splitlines(), start=1):
        if include := INCLUDE.match(text):
            match include[1].split("/"):
                case ["snabb_py", target, _]:
                    yield from check_floor(floor, target, line)
                case _:
                    yield line, f"write {include[1]} relative to the root"


def check_floor(floor: str, target: str, line: int) -> Violations:
    if floor not in MAY_IMPORT:
        yield line, f"{floor} is no floor of the house"
    elif target not in MAY_IMPORT[floor]:
        yield line, f"{floor} may not import {target}"


def imports(
    node: ast.AST, *, is_deferred: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield each import below a node, and whether it stays undone on import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_deferred
        else:
            defers = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                isinstance(child, ast.If)
                and ast.unparse(child.test).endswith("TYPE_CHECKING")
            )
            yield from imports(child, is_deferred=is_deferred or defers)


def imported_names(
    statement: ast.Import | ast.ImportFrom, module: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """Return the dotted names that a module imports, absolute and split."""
    names = [alias.name for alias in statement.names]
    if isinstance(statement, ast.Import):
        return [tuple(name.split(".")) for name in names]
    start = module[: -statement.level] if statement.level else ()
    middle = tuple(statement.module.split(".")) if statement.module else ()
    return [(*start, *middle, name) for name in names]


def floor_of(name: tuple[str, ...], package: Path) -> str:
    """Return the floor of something imported from the package."""
    floor = name[1] if len(name) > 1 else "__init__"
    is_module = (package / floor).is_dir() or (package / f"{floor}.py").exists()
    # `from snabb_py import __version__` names no module.
    return floor if is_module or floor == "_native" else "__init__"


def test_the_house_stands() -> None:
    assert find_violations(PACKAGE) == []


def test_help_is_quick() -> None:
    code = "import sys, snabb_py.cli; print(*sorted(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert not SLOW & set(out.stdout.split())


@pytest.mark.parametrize(
    ("file", "text", "wrong"),
    [
        ("engine/a.py", "from snabb_py.apps import x", "engine may not import apps"),
        ("engine/a.py", "from snabb_py import nic", "engine may not import nic"),
        ("engine/a.py", "import snabb_py.cli.forward", "engine may not import cli"),
        ("engine/a.py", "from snabb_py import __version__", "may not import __init__"),
        ("engine/a.py", "def f():\n from ..apps import x", "2: engine may not import"),
        ("apps/a.py", "from ..virtio.virtq import x", "apps may not import virtio"),
        ("nic/a.py", "from .. import lwaftr", "nic may not import lwaftr"),
        ("virtio/__init__.py", "from ..nic import x", "virtio may not import nic"),
        ("lwaftr/a.py", "import snabb_py.nic as n", "lwaftr may not import nic"),
        ("errors.py", "import snabb_py.engine", "errors may not import engine"),
        ("__init__.py", "from .engine import x", "__init__ may not import engine"),
        ("cli/a.py", "import snabb_py.native_build", "may not import native_build"),
        ("util/a.py", "import snabb_py.errors", "util is no floor of the house"),
        ("cli/a.py", "import rich.table", "rich belongs inside"),
        ("cli/a.py", "class A:\n from scapy.all import IP", "2: scapy belongs inside"),
        ("nic/a.py", "try:\n import pyroute2\nfinally: pass", "pyroute2 belongs"),
        ("engine/a.c", '#include "snabb_py/nic/a.h"', "engine may not import nic"),
        ("nic/a.h", '\n# include "snabb_py/lwaftr/a.h"', "a.h:2: nic may not import"),
        ("cli/a.c", "", "cli holds no C"),
        ("nic/a.c", '#include "a.h"', "write a.h relative to the root"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, text: str, wrong: str) -> None:
    package = make_package(tmp_path, file, text)
    [violation] = find_violations(package)
    assert violation.startswith(f"{file}:")
    assert wrong in violation


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("errors.py", "import enum"),
        ("engine/a.py", "from .. import errors\nfrom snabb_py._native import lib"),
        ("apps/a.py", "from ..engine import app\nfrom . import basic"),
        ("nic/a.py", "from snabb_py.apps import basic\nimport snabb_py.errors"),
        ("cli/a.py", "from snabb_py import __version__, nic, lwaftr, virtio"),
        ("cli/a.py", "def f():\n from rich.table import Table"),
        ("cli/a.py", "import typing\nif typing.TYPE_CHECKING:\n import scapy"),
        ("nic/a.c", '#include <errno.h>\n#include "snabb_py/engine/engine.h"'),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, text: str) -> None:
    assert find_violations(make_package(tmp_path, file, text)) == []


def make_package(root: Path, file: str, text: str) -> Path:
    """Return a package with all floors and one file of the given text."""
    package = root / "snabb_py"
    for floor in MAY_IMPORT.keys() - {"__init__", "__main__", "errors", "native_build"}:
        (package / floor).mkdir(parents=True)
    for module in ("__init__", "__main__", "errors", "native_build"):
        (package / f"{module}.py").touch()
    path = package / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return package
