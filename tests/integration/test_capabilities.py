"""What the operator's guide says a user needs is enough, and none of it too much."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import manual
from tests.machine import PATIENCE, Machine, machine
from tests.users import NOBODY, run_as_user, user_command

GUIDE = "operators.md"
CARD = "0000:01:00.0"
NETWORK = f"""
for name in eth1 eth2; do
    ip link add $name type veth peer name far-$name
    ip link set $name up
    ip link set far-$name up
done
ip tuntap add own0 mode tap user {NOBODY}
ip link set own0 up
"""
#: Huge pages for a card without an IOMMU, on a guest that has 1 GiB.
PAGES = 120
CONF, SOCKETS = "examples/nfv.toml", "/run/vm-%s.sock"


class Row(NamedTuple):
    """A program and what it needs.

    Attributes:
        command: without snabb-py.
        capabilities: none of them may be missing.
    """

    command: str
    capabilities: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """Return the words for a run that ends soon."""
        words = self.command.split()
        if words[0] in {"pci", "doctor"}:
            return words
        return [*words, "--duration", "0.5", "--json"]


XDP = ("CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF", "CAP_IPC_LOCK")
RAW, TAP, GROUP = ("CAP_NET_RAW",), ("CAP_NET_ADMIN",), ("CAP_CHOWN",)
HERE = [
    Row("forward sim,count=1000 null"),
    Row("forward sim,count=1000 pcap:,/run/out.pcap"),
    Row("forward sim,count=1000 raw:eth1", RAW),
    Row("forward sim,count=1000 xdp:eth1", XDP),
    Row("forward sim,count=1000 tap:new0", TAP),
    Row("forward sim,count=1000 tap:own0"),
    Row("forward sim,wire=raw:eth1 null", RAW),
    Row(f"nfv traffic sim,wire=gen {CONF} {SOCKETS}"),
    Row(f"nfv traffic sim,wire=gen {CONF} {SOCKETS} --group root", GROUP),
    Row(f"nfv traffic sim {CONF} {SOCKETS}", TAP),
    Row(f"nfv traffic raw:eth1 {CONF} {SOCKETS}", RAW),
    Row(f"nfv traffic tap:own0 {CONF} {SOCKETS}"),
    Row("lwaftr run --bt examples/binding.table"),
    Row("lwaftr run --conf examples/lwaftr.conf --v4 raw:eth1 --v6 raw:eth2", RAW),
    Row("packetblaster synth sim --count 1000"),
    Row("packetblaster synth raw:eth1 --count 1000", RAW),
    Row("packetblaster synth tap:new0 --count 1000", TAP),
    Row("sim82599 /run/nic.sock"),
    Row("sim82599 /run/nic.sock --wire tap:new0", TAP),
    Row("sim82599 /run/nic.sock --wire raw:eth1", RAW),
    Row("pci list"),
    Row("doctor"),
]
WITH_IOMMU = Row(f"forward {CARD} null", ("CAP_IPC_LOCK",))
WITHOUT_IOMMU = Row(f"forward {CARD} null", ("CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"))


def test_the_guide_has_what_is_tried_here() -> None:
    section = manual.read(GUIDE).partition("## Rights")[2].partition("\n## ")[0]
    said = set(re.findall(r"CAP_\w+", section))
    tried = {name for row in (*HERE, WITH_IOMMU, WITHOUT_IOMMU) for name in row[1]}
    assert said == tried
    rights = {
        name: row.cells[0]
        for row in manual.rows(GUIDE)
        if row.heading == "Rights"
        for name in row.names
    }
    assert rights["raw:"] == "CAP_NET_RAW"
    assert rights["tap:"].startswith("CAP_NET_ADMIN; none for one")
    assert {rights[name] for name in ("null", "pcap:", "sim")} == {"none"}


def the_row(row: Row) -> str:
    return row.command.replace(f" {CONF} {SOCKETS}", "")


@pytest.mark.need("root", "netns", "tun")
@pytest.mark.parametrize("row", HERE, ids=the_row)
def test_that_is_enough(row: Row) -> None:
    done = run_as_user(*row.words, capabilities=row.capabilities, network=NETWORK)
    assert done.returncode == 0, done
    if "sim,count=1000" in row.words:
        summary = json.loads(done.stdout.splitlines()[-1])
        (direction,) = summary["directions"]
        assert direction["forwarded"] == 1000


@pytest.mark.need("root", "netns", "tun")
@pytest.mark.parametrize("row", [row for row in HERE if row.capabilities], ids=the_row)
def test_none_of_it_is_too_much(row: Row) -> None:
    for missing in row.capabilities:
        rest = set(row.capabilities) - {missing}
        done = run_as_user(*row.words, capabilities=rest, network=NETWORK)
        assert done.returncode == 1, done
        assert_it_is_named(done.stderr, missing)


def assert_it_is_named(errors: str, capability: str) -> None:
    *_, last = errors.splitlines()
    assert last.startswith("snabb-py: ")
    assert re.search("not permitted|denied|Cannot allocate|No buffer space", last)
    assert re.search(rf"\b{capability}\b", last)


@pytest.mark.need("root")
def test_another_s_runtime_directory_is_not_used(tmp_path: Path) -> None:
    """As sudo and su leave it in place."""
    for other in (str(tmp_path), "/run/user/none"):
        done = run_as_user(
            *("forward", "--duration", "0"), environment={"XDG_RUNTIME_DIR": other}
        )
        assert done.returncode == 0, done
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(f"/tmp/snabb-py-{NOBODY}")  # noqa: S108


# ---- cards, in guests


def as_user(
    guest: Machine, row: Row, *capabilities: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    command = user_command(*row.words, capabilities=capabilities)
    return guest.guest.call(before + shlex.join(command), PATIENCE)


@pytest.fixture
def vfio() -> Iterator[Machine]:
    with machine(iommu="pt", memory="1G") as it:
        yield it


@pytest.fixture
def sysfs() -> Iterator[Machine]:
    with machine(memory="1G") as it:
        yield it


@pytest.mark.need("qemu", "root")
def test_a_card_with_an_iommu_needs_no_root(vfio: Machine) -> None:
    row = WITH_IOMMU
    vfio.card.give_to_ixgbe()
    vfio.snabb("pci", "bind", CARD)
    done = as_user(vfio, row, *row.capabilities)
    assert "chown USER /dev/vfio/" in done.stderr
    group = vfio.run(f"basename $(readlink /sys/bus/pci/devices/{CARD}/iommu_group)")
    vfio.run(f"chown {NOBODY} /dev/vfio/{group.strip()}")
    done = as_user(vfio, row, *row.capabilities)
    assert done.returncode == 0, done
    # Nothing at all when its packets may be locked.
    done = as_user(vfio, row, before="ulimit -l unlimited; ")
    assert done.returncode == 0, done
    done = as_user(vfio, row, before="ulimit -l 8192; ")
    assert done.returncode == 1, done
    assert_it_is_named(done.stderr, "CAP_IPC_LOCK")
    assert "ulimit -l unlimited" in done.stderr


@pytest.mark.need("qemu", "root")
def test_a_card_without_an_iommu_needs_these(sysfs: Machine) -> None:
    row = WITHOUT_IOMMU
    sysfs.card.give_to_ixgbe()
    sysfs.run(f"echo {PAGES} >/proc/sys/vm/nr_hugepages")
    for missing in row.capabilities:
        done = as_user(sysfs, row, *(set(row.capabilities) - {missing}))
        assert done.returncode == 1, done
        assert_it_is_named(done.stderr, missing)
    done = as_user(sysfs, row, *row.capabilities)
    assert done.returncode == 0, done
    assert sysfs.card.driver == "ixgbe"
