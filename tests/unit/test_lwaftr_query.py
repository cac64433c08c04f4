"""`snabb-py lwaftr query` over what instances have left, whole or not."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from snabb_py.cli import lwaftr_query
from snabb_py.engine import shm
from snabb_py.engine.counter import LINK
from snabb_py.engine.shm import Counters, InstanceDirectory
from snabb_py.errors import ConfigError
from snabb_py.lwaftr.counters import NAMES

Damage = Callable[[Path], object]


class Instances:
    """Directories of instances that live as long as this, by pid."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def make(self, pid: int, **values: int) -> Path:
        """Make one with an lwAFTR, an interface and a link; return its directory."""
        directory = InstanceDirectory(pid)
        self._stack.callback(directory.close)
        counters = Counters(directory.path / "counters", "lwaftr")
        self._stack.callback(counters.close)
        for name, names in (
            ("apps/lwaftr", NAMES),
            ("apps/v4", ("rx-packets", "drop-rx-kernel-ring-full")),
            ("links/v4.tx -> lwaftr.v4", LINK),
        ):
            row = counters.make(name, names)
            for i, counter in enumerate(names):
                row.pointer[i] = values.get(counter.replace("-", "_"), 0)
            counters.publish(row)
        words = {"v4": f"raw:v4of{pid}", "v6": "raw:v\x1b6"}
        directory.tell({"interfaces": words, "conf": f"/etc/{pid}.conf", "bt": None})
        return directory.path


@pytest.fixture
def instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instances]:
    monkeypatch.setattr(shm, "runtime_directory", lambda: tmp_path / "run")
    with ExitStack() as stack:
        yield Instances(stack)


def query(*arguments: str) -> Result:
    return CliRunner().invoke(lwaftr_query.program, arguments)


def test_what_is_lost_anywhere_is_shown(instances: Instances) -> None:
    instances.make(7, drop_rx_kernel_ring_full=1234, txdrop=5)
    instances.make(12, drop_ttl_zero_ipv4_packets=3)
    instances.make(13)
    lines = [" ".join(line.split()) for line in query("drop").stdout.splitlines()]
    assert lines == [
        "process 7 v4 raw:v4of7, v6 raw:v\N{REPLACEMENT CHARACTER}6 /etc/7.conf",
        "v4 drop-rx-kernel-ring-full 1,234",
        "v4.tx -> lwaftr.v4 txdrop 5",
        "process 12 v4 raw:v4of12, v6 raw:v\N{REPLACEMENT CHARACTER}6 /etc/12.conf",
        "drop-ttl-zero-ipv4-packets 3",
        "process 13 v4 raw:v4of13, v6 raw:v\N{REPLACEMENT CHARACTER}6 /etc/13.conf",
        "all 0",
    ]
    (found,) = map(
        json.loads, query("--json", "--pid", "7", "txdrop").stdout.split("\n")[:1]
    )
    assert found["counters"] == {"v4.tx -> lwaftr.v4 txdrop": 5}
    assert found["conf"] == "/etc/7.conf"


def become_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: os.truncate(path, 4000), "damaged: ends before byte"),
        (lambda path: path.write_bytes(b"x" * 100), "not a counters file"),
        (become_fifo, "is no regular file"),
        (become_link, "symbolic link"),
        pytest.param(
            lambda path: os.chown(path, 65534, 65534),
            "belongs to somebody else",
            marks=pytest.mark.need("root"),
        ),
    ],
)
def test_damage_is_named_and_the_others_are_shown(
    instances: Instances, damage: Damage, said: str
) -> None:
    instances.make(7, in_ipv4_packets=1)
    broken = instances.make(8)
    instances.make(9, in_ipv4_packets=1)
    damage(broken / "counters")
    result = query("in-ipv4-packets")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"snabb-py: process 8: {broken}/counters: ")
    assert said in line
    shown = [text for text in result.stdout.splitlines() if text[0] != " "]
    assert [text.split()[1] for text in shown] == ["7", "9"]


def test_damage_to_what_it_says_of_itself(instances: Instances) -> None:
    path = instances.make(7, in_ipv4_packets=1)
    (path / "about").write_text("[" * 50000)
    result = query("in-ipv4-packets")
    assert result.stderr == f"snabb-py: process 7: {path}/about: is no JSON object\n"
    assert result.stdout.split() == ["process", "7", "in-ipv4-packets", "1"]


@pytest.mark.need("root")
def test_a_runtime_directory_that_others_planted(
    instances: Instances, tmp_path: Path
) -> None:
    instances.make(7)
    (tmp_path / "run").chmod(0o777)
    result = query()
    assert isinstance(result.exception, ConfigError)
    assert "belongs to somebody else or others may write" in str(result.exception)
    (tmp_path / "run").chmod(0o755)
