"""The doctor on real machines: this one, and a guest that may be mended.

What it finds is compared with what others say of the same machine: lscpu, sysctl,
/proc/meminfo, the kernel's log, a socket that is opened.
"""

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snabb_py.cli.doctor_finding import Case, Verdict
from snabb_py.cli.doctor_memory import PAGES, huge_pages
from snabb_py.engine.host import Host
from snabb_py.engine.worker import parse_cpus
from tests.machine import Machine, machine
from tests.requirements import SEARCH_PATH
from tests.users import NOBODY, run_as_user

AF_XDP = 44


def doctor(*words: str) -> dict[str, dict[str, Any]]:
    """Return what it finds here, by name."""
    done = subprocess.run(
        [sys.executable, "-m", "snabb_py", "doctor", "--json", *words],
        check=False,
        capture_output=True,
        text=True,
    )
    found = by_name(done.stdout)
    ill = any(finding["verdict"] == "problem" for finding in found.values())
    assert done.returncode == ill, done
    return found


def by_name(output: str) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in output.splitlines()]
    return {line["name"]: line for line in lines if "name" in line}


def say(*command: str) -> str:
    return subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C"},
    ).stdout


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    return doctor("--cpu", "0")


# ---- this machine


def meminfo(key: str) -> int:
    return int(re.findall(rf"{key}:\s+(\d+)", Path("/proc/meminfo").read_text())[0])


def test_huge_pages_are_those_of_meminfo() -> None:
    while True:  # others take some and give them back meanwhile
        before = meminfo("HugePages_Free"), meminfo("HugePages_Total")
        finding = huge_pages(Case(Host()))
        if before == (meminfo("HugePages_Free"), meminfo("HugePages_Total")):
            break
    free, total = before
    assert finding.now.startswith(f"{free} of {total} free, of 2 MiB")
    assert finding.verdict is (Verdict.OK if free >= PAGES else Verdict.WARNING)
    if free < PAGES:
        needed = total - free + PAGES
        assert finding.command == f"sysctl vm.nr_hugepages={needed}"


def test_what_is_reserved_at_boot(found: dict[str, dict[str, Any]]) -> None:
    now = found["huge-pages-at-boot"]["now"]
    argument = re.search(r"\bhugepages=(\d+)", Path("/proc/cmdline").read_text())
    if not argument:
        assert now.startswith("the kernel argument says nothing")


def test_the_limit_is_that_of_the_process(found: dict[str, dict[str, Any]]) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    text = "no limit" if limit == resource.RLIM_INFINITY else f"{limit >> 10} KiB"
    assert found["locked-memory"]["now"].startswith(text)


def test_the_iommu_is_that_of_the_devices(found: dict[str, dict[str, Any]]) -> None:
    groups = {
        link.resolve().name
        for link in Path("/sys/bus/pci/devices").glob("*/iommu_group")
    }
    begins = f"on, {len(groups)} groups" if groups else "off"
    assert found["iommu"]["now"].startswith(begins)


def test_sockets_are_there_when_they_can_be_made(
    found: dict[str, dict[str, Any]],
) -> None:
    release = ".".join(say("uname", "-r").split(".")[:2])
    assert f"Linux {release} " in found["sockets"]["now"]
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW, 0).close()
    except PermissionError:
        pass
    except OSError:
        assert "without AF_XDP" in found["sockets"]["now"]
        return
    assert "AF_PACKET and AF_XDP" in found["sockets"]["now"]


def test_tap_libpcap_and_perf_are_as_others_find_them(
    found: dict[str, dict[str, Any]],
) -> None:
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/net/tun", os.O_RDWR))
        assert found["tap"]["verdict"] == "ok"
    has_library = "libpcap.so." in say("ldconfig", "-p")
    assert (found["libpcap"]["verdict"] == "ok") == has_library
    level = say("sysctl", "-n", "kernel.perf_event_paranoid").strip()
    assert f"kernel.perf_event_paranoid={level}:" in found["perf"]["now"]


def test_cpus_are_those_of_lscpu(found: dict[str, dict[str, Any]]) -> None:
    rows = [
        line.split(",")
        for line in say("lscpu", "--all", "--parse=CPU,CORE,SOCKET,ONLINE").splitlines()
        if not line.startswith("#")
    ]
    online = [int(cpu) for cpu, _, _, state in rows if state == "Y"]
    governors = found["governor"]["now"]
    idle = re.findall(r"\(CPU ([\d,-]+)\)", found["idle-states"]["now"])
    assert idle in ([], ["0"])
    assert "(CPU 0)" in governors or found["governor"]["verdict"] == "cannot tell"
    if idle:
        everywhere = re.findall(r"\(CPU ([\d,-]+)\)", doctor()["idle-states"]["now"])
        assert sorted(c for text in everywhere for c in parse_cpus(text)) == online
    core = next(row[1:3] for row in rows if row[0] == "0")
    shared = [row[0] for row in rows if row[1:3] == core and row[3] == "Y"]
    if len(shared) == 1:
        assert found["cpu-cores"]["verdict"] == "ok"
    else:
        assert f"with CPU {shared[1]}" in found["cpu-cores"]["now"]


def test_isolated_cpus_are_those_of_the_command_line(
    found: dict[str, dict[str, Any]],
) -> None:
    arguments = Path("/proc/cmdline").read_text()
    for name, argument in (("cpu-isolated", "isolcpus="), ("cpu-ticks", "nohz_full=")):
        if argument not in arguments:
            assert found[name]["verdict"] == "warning"
            assert f"{argument}" in found[name]["command"]


@pytest.mark.need("two-cpus")
def test_interrupts_are_those_of_the_kernel_s_table(
    found: dict[str, dict[str, Any]],
) -> None:
    lines = Path("/proc/interrupts").read_text().splitlines()
    ncpus = len(lines[0].split())
    rows = [line.split() for line in lines[1:]]
    # Number, counts, chip, how it comes; then the handlers, if there are any.
    handled = [row[0][:-1] for row in rows if len(row) > ncpus + 3]
    expected = {
        number
        for number in handled
        if number.isdecimal()
        and int(Path(f"/proc/irq/{number}/effective_affinity").read_text()[-2], 16) & 1
    }
    told = found["cpu-interrupts"]
    files = re.findall(r"tee (\S+)|>(\S+)", told["command"] or "")
    shown = "".join(several or one for several, one in files)
    expanded = say("bash", "-c", f"echo {shown}")
    assert set(re.findall(r"/irq/(\d+)/", expanded)) == expected
    assert told["verdict"] == ("warning" if expected else "ok")


@pytest.mark.need("root")
def test_root_lacks_nothing_and_nobody_all(found: dict[str, dict[str, Any]]) -> None:
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    except PermissionError:  # in a container
        assert "raw: lacks CAP_NET_RAW" in found["rights"]["now"]
    else:
        assert "raw:" not in found["rights"]["now"]
    done = run_as_user("doctor", "--json")
    assert done.returncode == 0, done
    rights = by_name(done.stdout)["rights"]
    assert rights["verdict"] == "warning"
    assert "raw: lacks CAP_NET_RAW; tap: lacks CAP_NET_ADMIN" in rights["now"]


@pytest.mark.need("root")
def test_what_it_calls_planted_is_refused() -> None:
    with tempfile.TemporaryDirectory(prefix="snabb-doctor-") as name:
        os.chown(name, NOBODY, NOBODY)
        environment = {"XDG_RUNTIME_DIR": name}
        doctor = ("doctor", "--json")
        done = run_as_user(*doctor, environment=environment)
        assert by_name(done.stdout)["runtime-directory"]["verdict"] == "ok"
        Path(name, "snabb-py").mkdir(mode=0o700)
        done = run_as_user(*doctor, environment=environment)
        assert done.returncode == 1
        assert by_name(done.stdout)["runtime-directory"]["verdict"] == "problem"
        done = run_as_user("forward", "--duration", "0", environment=environment)
        assert done.returncode == 2
        assert "snabb-py: belongs to somebody else" in done.stderr


def test_colours_are_for_terminals(found: dict[str, dict[str, Any]]) -> None:
    del found
    command = [sys.executable, "-m", "snabb_py", "doctor"]
    plain = subprocess.run(command, check=False, capture_output=True).stdout
    assert b"\x1b" not in plain
    terminal, inside = os.openpty()
    with subprocess.Popen(command, stdout=inside) as process:
        os.close(inside)
        text = b""
        with contextlib.suppress(OSError):  # EIO: it has ended
            while data := os.read(terminal, 4096):
                text += data
        process.wait()
    os.close(terminal)
    assert b"\x1b[32mok" in text


# ---- a guest, where there is more to mend


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    with machine(
        iommu="pt",
        cpus=2,
        memory="1G",
        kernel_args="isolcpus=managed_irq,domain,1 numa=fake=2",
    ) as it:
        yield it


def ask(guest: Machine, *words: str) -> dict[str, dict[str, Any]]:
    return by_name(guest.snabb("doctor", "--json", *words))


@pytest.mark.need("qemu")
def test_a_card_in_a_guest(guest: Machine) -> None:
    name = guest.card.give_to_ixgbe()
    address = guest.card.address
    found = ask(guest, address, "--cpu", "1")
    groups = int(guest.run("ls /sys/kernel/iommu_groups | wc -l"))
    assert found["iommu"]["now"] == f"on, {groups} groups"
    assert "DMAR: IOMMU enabled" in guest.run("dmesg")
    assert found["cpu-isolated"]["verdict"] == "ok"
    assert found["cpu-usable"]["verdict"] == "ok"
    group = guest.run(
        f"basename $(readlink /sys/bus/pci/devices/{address}/iommu_group)"
    )
    assert found["access"]["now"] == f"by VFIO, IOMMU group {group.strip()}"
    # As the card itself has it, in its configuration space.
    control = guest.card.model.access(0, 0xA8, 2)
    size = 128 << (int.from_bytes(control, "little") >> 5 & 7)
    assert found["pcie-payload"]["now"] == f"{size} bytes"
    assert found["pcie-link"]["now"].startswith("x8 at 5 GT/s")
    assert found["driver"]["verdict"] == "ok"
    guest.run(f"ip link set {name} up")
    done = guest.guest.call(guest.command("doctor", "--json"), 60)
    guest.run(f"ip link set {name} down")
    assert done.returncode == 1
    driver = by_name(done.stdout)["driver"]
    assert driver["now"] == f"ixgbe: its interface {name} is up"
    assert driver["command"] == f"ip link set {name} down"


@pytest.mark.need("qemu")
def test_what_can_be_mended_is_mended(guest: Machine) -> None:
    words = (guest.card.address, "--cpu", "1")
    mends = {"huge-pages", "vfio-pci", "tap", "cpu-interrupts"}
    guest.run("mkdir -m 755 -p /run/snabb-py")
    before = ask(guest, *words)
    assert all(before[name]["verdict"] == "warning" for name in mends)
    shown = [step for name in before if name in mends
             for step in before[name]["command"].split("; ")]  # fmt: skip
    output = guest.snabb("doctor", "--json", *words, "--fix")
    lines = [json.loads(line) for line in output.splitlines()]
    steps = [line for line in lines if "step" in line]
    assert [step["step"] for step in steps] == shown
    assert [step["error"] for step in steps] == [None] * len(steps)
    after = by_name(output)
    assert all(after[name]["verdict"] == "ok" for name in mends)
    assert {n: f for n, f in after.items() if n not in mends} == {
        n: f for n, f in before.items() if n not in mends
    }
    again = guest.snabb("doctor", "--json", *words, "--fix")
    assert "step" not in json.loads(again.splitlines()[0])
    assert by_name(again) == after
    # As others see it.
    free = guest.run("sed -n 's/HugePages_Free: *//p' /proc/meminfo")
    assert int(free) == PAGES
    assert "vfio_pci" in guest.run("lsmod")
    guest.run("test -c /dev/net/tun")
    affinity = guest.run("cat /proc/irq/*/effective_affinity_list 2>/dev/null || :")
    assert "1" not in affinity.split()


@pytest.mark.need("qemu")
def test_the_commands_shown_mend_as_well(guest: Machine) -> None:
    guest.run("echo 0 >/proc/sys/vm/nr_hugepages")
    guest.run("for i in /proc/irq/*/smp_affinity_list; do echo 1 >$i || :; done 2>&1")
    before = ask(guest, "--cpu", "1")
    for name in ("huge-pages", "cpu-interrupts"):
        assert before[name]["verdict"] == "warning"
        command = before[name]["command"]
        guest.run(f"PATH=$PATH:/usr/sbin bash -c '{command}'")
    after = ask(guest, "--cpu", "1")
    assert {after[n]["verdict"] for n in ("huge-pages", "cpu-interrupts")} == {"ok"}


@pytest.mark.need("qemu")
def test_an_isolated_cpu_may_be_chosen(guest: Machine) -> None:
    assert guest.run("sed -n 's/Cpus_allowed_list:\\s*//p' /proc/self/status") == "0\n"
    summary = guest.snabb(
        *("forward", "sim,inline,count=10", "sim,inline,count=10", "--cpu", "1"),
        *("--json", "--duration", "2"),
    ).splitlines()[-1]
    assert [worker["cpu"] for worker in json.loads(summary)["workers"]] == [1]


@pytest.mark.need("qemu")
def test_a_card_on_another_node_is_named(guest: Machine) -> None:
    address = guest.card.address
    node = f"/sys/bus/pci/devices/{address}/numa_node"
    guest.card.give_to_ixgbe()
    guest.run(f"echo 1 >{node}")
    try:
        for cpu in guest.run("ls -d /sys/devices/system/cpu/cpu*/node0").split():
            number = cpu.split("/")[5].removeprefix("cpu")
            found = ask(guest, address, "--cpu", number)["numa-node"]
            assert found["now"] == f"1; on another NUMA node than CPU {number}"
        job = guest.start_snabb("forward", address, "null", "--cpu", number)
        line = f"{address}: on another NUMA node than CPU {number}; for speed: CPUs of"
        job.wait_for(line)
        job.end()
    finally:
        guest.run(f"echo -1 >{node}")
    assert "numa-node" not in {
        name for name, f in ask(guest, address).items() if f["verdict"] == "warning"
    }
