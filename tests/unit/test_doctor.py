"""The doctor at the bed of machines that we do not have.

A good one has nothing wrong; each of the others has one thing wrong, which is found,
and nothing else is.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from snabb_py.cli import doctor
from snabb_py.cli.doctor import examine, mend, program
from snabb_py.cli.doctor_finding import (
    Case,
    Finding,
    Verdict,
    Write,
    braces,
    warning,
)
from snabb_py.cli.doctor_memory import PAGES
from snabb_py.cli.interfaces import Interface, engine_settings
from snabb_py.engine import pci, pci_bus
from snabb_py.engine.host import CPU, NODE, Host, UntoldError, format_cpus
from snabb_py.engine.pci_express import Payload, payload
from snabb_py.engine.shm import runtime_directory
from snabb_py.engine.worker import parse_cpus
from snabb_py.errors import ConfigError, DeviceError
from tests.made_up_host import CARD, CHOSEN, PORT, RELEASE, TWIN, MadeUpHost

HERE = f"{PORT}/{CARD}"
POWERLESS = "Name:\tpython\nCapEff:\t0000000000000000"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUpHost:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: None)
    return MadeUpHost(tmp_path)


def case_of(host: MadeUpHost, cpus: str = CHOSEN) -> Case:
    cards = doctor.choose_cards(host, ())
    return Case(host, cards, doctor.choose_cpus(host, cpus))


def diseases(host: MadeUpHost, cpus: str = CHOSEN) -> dict[str, Finding]:
    """Return what is not well, by name."""
    found = examine(case_of(host, cpus))
    return {f.name: f for f in found if f.verdict is not Verdict.OK}


def test_a_good_machine_has_nothing_wrong(host: MadeUpHost) -> None:
    assert diseases(host) == {}
    names = [finding.name for finding in examine(case_of(host))]
    assert names == [*doctor.OF_THE_MACHINE, *doctor.OF_CPUS, *doctor.OF_CARDS]


W, P, U = Verdict.WARNING, Verdict.PROBLEM, Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("files", "name", "verdict", "now", "command"),
    [
        (
            {
                f"{NODE}/node1/hugepages/hugepages-2048kB/free_hugepages": "4",
                f"{NODE}/node1/hugepages/hugepages-2048kB/nr_hugepages": "9",
            },
            "huge-pages",
            W,
            f"node 0: {PAGES} of {PAGES + 10}, node 1: 4 of 9",
            f"echo {PAGES + 5} >/{NODE}/node1/hugepages/hugepages-2048kB/nr_hugepages",
        ),
        (
            {
                "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages": "4",
                "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages": "3",
            },
            "huge-pages-1g",
            W,
            "3 of 4 free",
            "hugepages-1048576kB/nr_hugepages",
        ),
        (
            {"etc/sysctl.conf": "# none\nvm/nr_hugepages=7"},
            "huge-pages-at-boot",
            W,
            "the kernel argument says nothing, sysctl.d 7",
            f"echo vm.nr_hugepages={PAGES} >/etc/sysctl.d/90-snabb-py.conf",
        ),
        (
            {
                "proc/self/limits": "Max locked memory  8388608  8388608 bytes",
                "proc/self/status": "CapEff:\t000001ffffffbfff",
            },
            "locked-memory",
            P,
            "8192 KiB",
            "ulimit -l unlimited",
        ),
        (
            {"sys/module/vfio/parameters/enable_unsafe_noiommu_mode": "Y"},
            "vfio-noiommu",
            W,
            "on",
            "echo N >/sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
        ),
        (
            {"proc/self/status": "CapEff:\t000001ffffffcfff"},
            "rights",
            W,
            "raw: lacks CAP_NET_RAW; tap: lacks CAP_NET_ADMIN",
            "--ambient-caps +net_admin,+net_raw",
        ),
        (
            {"proc/net/protocols": "protocol\nPACKET"},
            "sockets",
            W,
            "Linux 6.1 without AF_XDP",
            "CONFIG_XDP_SOCKETS",
        ),
        (
            {"proc/net/protocols": "protocol\nXDP"},
            "sockets",
            W,
            "Linux 6.1 without AF_PACKET",
            "modprobe af_packet",
        ),
        (
            {"proc/sys/kernel/osrelease": "4.19.0"},
            "sockets",
            W,
            "Linux 4.19, whose AF_XDP",
            "a newer kernel",
        ),
        (
            {
                f"{CPU}/cpu3/cpufreq/scaling_governor": "powersave",
                f"{CPU}/cpu2/cpufreq/scaling_governor": "powersave",
            },
            "governor",
            W,
            "powersave (CPU 3)",
            f"echo performance >/{CPU}/cpu3/cpufreq/scaling_governor",
        ),
        (
            {f"{CPU}/cpu3/cpuidle/state2/disable": "0"},
            "idle-states",
            W,
            "C6, 133 us to wake up (CPU 3)",
            f"echo 10 >/{CPU}/cpu3/power/pm_qos_resume_latency_us",
        ),
        (
            {f"{CPU}/online": "0-2,4-7"},
            "cpu-usable",
            P,
            "CPU 3 is offline",
            f"echo 1 >/{CPU}/cpu3/online",
        ),
        (
            {"sys/fs/cgroup/user.slice/cpuset.cpus.effective": "0-1"},
            "cpu-usable",
            P,
            "our cgroup has the CPUs 0-1",
            "AllowedCPUs=",
        ),
        (
            {f"{CPU}/isolated": "1,5,7"},
            "cpu-isolated",
            W,
            "CPU 3 gets",
            "isolcpus=managed_irq,domain,3",
        ),
        (
            {f"{CPU}/nohz_full": "(null)"},
            "cpu-ticks",
            W,
            "CPU 3 is interrupted",
            "nohz_full=3 rcu_nocbs=3",
        ),
        (
            {f"{CPU}/isolated": "1,3,5"},
            "cpu-cores",
            W,
            "CPU 3 has its core with CPU 7, which gets other work",
            f"echo 0 >/{CPU}/cpu7/online",
        ),
        (
            {"proc/irq/44/effective_affinity_list": "3"},
            "cpu-interrupts",
            W,
            "44 (eth0-rx-0)",
            "echo 0,2,4,6 >/proc/irq/44/smp_affinity_list",
        ),
        (
            {
                f"{HERE}/current_link_width": "4",
            },
            "pcie-link",
            W,
            "x4 at 5 GT/s: 16 Gb/s each way",
            "another slot",
        ),
        (
            {f"{HERE}/current_link_width": "1"},
            "pcie-link",
            P,
            "x1 at 5 GT/s: 4 Gb/s each way",
            "another slot",
        ),
        (
            {f"{HERE}/current_link_speed": "Unknown"},
            "pcie-link",
            U,
            'current link "Unknown", width "8"',
            "",
        ),
        (
            {f"{HERE}/numa_node": "-1"},
            "numa-node",
            U,
            "the firmware does not tell",
            "",
        ),
        (
            {f"{HERE}/device": "0x1528"},
            "model",
            P,
            "Intel X540 (8086:1528)",
            "raw:",
        ),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(  # noqa: PLR0913, PLR0917 - a row
    host: MadeUpHost,
    files: dict[str, str],
    name: str,
    verdict: Verdict,
    now: str,
    command: str,
) -> None:
    for file, text in files.items():
        host.write(file, text)
    card = pci.find(CARD, sysfs=host.root / "sys")
    case = Case(host, (card,), doctor.choose_cpus(host, CHOSEN))
    ill = [f for f in examine(case) if f.verdict is not Verdict.OK]
    assert [f.name for f in ill] == [name]
    assert ill[0].verdict is verdict
    assert now in ill[0].now
    assert command in ill[0].command
    assert bool(ill[0].should) == bool(ill[0].command) == (verdict is not U)


def test_no_pages_are_free(host: MadeUpHost) -> None:
    host.write(f"{HERE}/numa_node", "-1")
    host.set_pages(0)
    found = diseases(host)["huge-pages"]
    assert found.command == f"sysctl vm.nr_hugepages={PAGES}"
    assert found.verdict is W
    # Nothing else would do for a card that knows physical addresses alone.
    host.remove("sys/kernel/iommu_groups/7/type")
    (host.root / "sys/kernel/iommu_groups").rename(host.root / "gone")
    host.write("proc/self/status", POWERLESS)
    found = diseases(host)["huge-pages"]
    assert found.verdict is P


@pytest.mark.parametrize(
    ("words", "is_well"),
    [
        (f"hugepages={PAGES}", True),
        (f"hugepages={PAGES - 1}", False),
        (f"default_hugepagesz=1G hugepagesz=1G hugepages={PAGES}", False),
        (f"hugepagesz=1G hugepages=4 hugepagesz=2M hugepages={PAGES}", True),
    ],
)
def test_pages_are_reserved_by_the_kernel_s_arguments(
    host: MadeUpHost, words: str, is_well: bool
) -> None:
    host.remove("etc/sysctl.d/50-pages.conf")
    host.write("proc/cmdline", words)
    assert ("huge-pages-at-boot" not in diseases(host)) == is_well


def test_the_last_file_of_a_name_counts(host: MadeUpHost) -> None:
    host.write("usr/lib/sysctl.d/60-x.conf", "vm.nr_hugepages=1")
    assert "sysctl.d 1" in diseases(host)["huge-pages-at-boot"].now
    host.write("run/sysctl.d/60-x.conf", "-vm.nr_hugepages=2")
    assert "sysctl.d 2" in diseases(host)["huge-pages-at-boot"].now
    host.write("etc/sysctl.d/60-x.conf", "")
    assert diseases(host) == {}
    (host.root / "etc/sysctl.d/70-evil.conf").write_bytes(b"\xff\0=vm.nr_hugepages")
    assert diseases(host) == {}


def without_iommu(host: MadeUpHost) -> None:
    (host.root / "sys/kernel/iommu_groups").rename(host.root / "gone")
    for device in (CARD, TWIN):
        group = host.root / PORT / device / "iommu_group"
        group.unlink(missing_ok=True)


def test_xdp_locks_memory_without_an_iommu(host: MadeUpHost) -> None:
    without_iommu(host)
    host.write("proc/self/limits", "Max locked memory  8388608  8388608 bytes")
    assert "locked-memory" not in diseases(host)
    host.write("proc/self/status", "CapEff:\t000001ffffffbfff")
    found = diseases(host)["locked-memory"]
    assert (found.verdict, found.now) == (W, "8192 KiB")
    assert found.should.endswith("for xdp:")


def test_an_iommu_is_missed(host: MadeUpHost) -> None:
    without_iommu(host)
    found = diseases(host)
    assert {name: f.verdict for name, f in found.items()} == {"iommu": W, "access": W}
    assert "intel_iommu=on iommu=pt" in found["iommu"].command
    host.write("proc/cpuinfo", "vendor_id : AuthenticAMD")
    assert diseases(host)["iommu"].command.endswith("arguments iommu=pt")
    host.write("sys/kernel/security/lockdown", "[none] integrity confidentiality")
    assert diseases(host)["access"].verdict is W
    host.write("sys/kernel/security/lockdown", "none [integrity] confidentiality")
    assert diseases(host)["access"].verdict is P
    # It is a card's business.
    assert examine(Case(host))[4].verdict is Verdict.OK


def test_vfio_is_loaded_when_it_can_be(host: MadeUpHost) -> None:
    (host.root / "sys/bus/pci/drivers/vfio-pci").rmdir()
    assert diseases(host)["vfio-pci"].verdict is P
    index = f"lib/modules/{RELEASE}/modules.dep"
    host.write(index, "kernel/drivers/vfio/pci/vfio-pci-core.ko.xz: x")
    assert diseases(host)["vfio-pci"].verdict is P
    host.write(index, "kernel/drivers/vfio/pci/vfio-pci.ko.xz: x")
    found = diseases(host)["vfio-pci"]
    assert found.verdict is W
    assert found.command == "modprobe vfio-pci"
    host.remove(index)  # as in a container: modprobe may know
    assert diseases(host)["vfio-pci"] == found
    (host.root / "sys/module/vfio_iommu_type1").rmdir()
    found = diseases(host)["vfio-pci"]
    assert found.command == "modprobe vfio-pci; modprobe vfio_iommu_type1"


def test_a_group_s_other_cards_are_named(host: MadeUpHost) -> None:
    host.make_card(TWIN, group=7)
    found = diseases(host)["access"]
    assert found.verdict is P
    assert "IOMMU group 7 with 0000:81:00." in found.now
    assert found.command.startswith("snabb-py pci bind 0000:81:00.")


def test_a_user_needs_a_group_of_his_own(host: MadeUpHost) -> None:
    host.write("proc/self/status", POWERLESS)
    found = diseases(host)["access"]
    assert found.verdict is P
    assert found.command == f"snabb-py pci bind {CARD}, as root"
    host.link(f"{HERE}/driver", "sys/bus/pci/drivers/vfio-pci")
    found = diseases(host)["access"]
    assert found.now.endswith("/dev/vfio/7 is not ours to open")
    assert found.command == f"chown {os.geteuid()} /dev/vfio/7, as root"
    host.write("dev/vfio/7", "")
    assert "access" not in diseases(host)


def test_a_card_in_use_is_a_problem(host: MadeUpHost) -> None:
    host.write(f"{HERE}/net/made0/flags", "0x1003")
    found = diseases(host)["driver"]
    assert found.verdict is P
    assert found.now == "ixgbe: its interface made0 is up"
    assert found.command == "ip link set made0 down"
    host.write(f"{HERE}/net/made0/flags", "0x1002")
    assert diseases(host) == {}


def test_cpus_of_another_node_are_found(host: MadeUpHost) -> None:
    found = diseases(host, "1,3")["numa-node"]
    assert found.verdict is W
    assert found.now == "1; on another NUMA node than CPU 1"
    assert found.should == "CPUs of its node 1: 2-3,6-7"


@pytest.mark.parametrize(
    ("cpus", "lines"),
    [
        ([3, 2], []),
        (
            [3, None, 1, 0],
            ["on another NUMA node than CPU 0-1; for speed: CPUs of its"],
        ),
        ([None], ["no CPU is chosen; for speed: CPUs of its node 1: 2-3,6-7"]),
    ],
)
def test_programs_name_cards_that_are_far(
    host: MadeUpHost,
    monkeypatch: pytest.MonkeyPatch,
    cpus: list[int | None],
    lines: list[str],
) -> None:
    monkeypatch.setattr("snabb_py.engine.host.Host", lambda: host)
    card = Interface(
        "81:00.0", None, "", device=pci.find(CARD, sysfs=host.root / "sys")
    )
    told: list[str] = []
    with engine_settings(
        [card, Interface("null", None, "")], cpus=cpus, log=told.append
    ):
        pass
    assert len(told) == len(lines)
    for line, expected in zip(told, lines, strict=True):
        assert line.startswith(f"{CARD}: {expected}")
    # A machine that does not tell is no reason not to start.
    (host.root / "sys").rename(host.root / "gone")
    with engine_settings([card], cpus=cpus, log=told.append):
        pass
    assert len(told) == len(lines)


def test_without_cpus_the_card_s_are_named(host: MadeUpHost) -> None:
    case = Case(host, doctor.choose_cards(host, ()))
    found = {f.name: f for f in examine(case)}
    assert found["numa-node"].now == "1; no CPU is chosen"
    assert not doctor.OF_CPUS.keys() & found.keys()


def test_two_threads_of_a_core_are_not_two_cores(host: MadeUpHost) -> None:
    found = diseases(host, "3,7")["cpu-cores"]
    assert found.now == "CPU 3 has its core with CPU 7, both are chosen"
    assert found.command == "choose CPUs of different cores"


def test_irqbalance_leaves_isolated_cpus_alone(host: MadeUpHost) -> None:
    host.write("proc/77/comm", "irqbalance")
    assert diseases(host) == {}
    host.write(f"{CPU}/isolated", "")
    host.write(f"{CPU}/nohz_full", "")
    found = diseases(host)["cpu-interrupts"]
    assert found.now == "none now, but irqbalance may bring some"
    assert "IRQBALANCE_BANNED_CPULIST=3" in found.command
    host.write("proc/irq/44/effective_affinity_list", "2-3")
    assert "44 (eth0-rx-0), and irqbalance runs" in diseases(host)["cpu-interrupts"].now


def test_an_interrupt_without_a_handler_never_comes(host: MadeUpHost) -> None:
    for name in ("effective_affinity_list", "smp_affinity_list"):
        host.write(f"proc/irq/45/{name}", "3")
    assert diseases(host) == {}


def test_what_the_kernel_manages_is_not_ours_to_move(host: MadeUpHost) -> None:
    host.write("proc/irq/44/effective_affinity_list", "3")
    for managed in ([44], [45], [44, 45]):
        host.managed = set(managed)
        (host.root / "proc/irq/45/nvme0q1").mkdir(parents=True, exist_ok=True)
        for name in ("effective_affinity_list", "smp_affinity_list"):
            host.write(f"proc/irq/45/{name}", "3")
        (found,) = (f for f in examine(case_of(host)) if f.name == "cpu-interrupts")
        assert "isolcpus=managed_irq" in found.now
        numbers = {n for step in found.actions for n in getattr(step, "numbers", ())}
        assert numbers == {44, 45} - host.managed
        assert (found.verdict is Verdict.OK) == (not numbers)


def test_to_ask_who_manages_interrupts_changes_none() -> None:
    names = list(Path("/proc/irq").glob("[0-9]*/smp_affinity_list"))
    before = [name.read_text() for name in names]
    for name in names:
        Host().is_managed(int(name.parent.name))
    assert [name.read_text() for name in names] == before


def test_a_bridge_limits_the_payload(host: MadeUpHost) -> None:
    card = pci.find(CARD, sysfs=host.root / "sys")
    assert payload(card) == Payload(now=256, possible=256)
    config = host.root / HERE / "config"
    data = bytearray(config.read_bytes())
    data[0xA8] = 0
    config.write_bytes(data)
    found = diseases(host)["pcie-payload"]
    assert (found.verdict, found.now) == (W, "128 bytes")
    assert found.should.startswith("256 bytes")
    config.write_bytes(data[:64])
    found = diseases(host)["pcie-payload"]
    assert found.verdict is U
    assert "only root sees all of it" in found.now


@given(st.binary(min_size=64, max_size=300))
def test_no_configuration_space_confuses_it(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("card")
    (path / "config").write_bytes(data)
    device = pci.Device(path, CARD, 0, 0, 0, None, None, (), None, ())
    try:
        found = payload(device)
    except UntoldError:
        return
    assert found.now in {128 << n for n in range(8)}


@pytest.mark.parametrize("mode", [0o707, 0o770])
def test_a_planted_directory_is_a_problem(host: MadeUpHost, mode: int) -> None:
    path = host.root / runtime_directory().relative_to("/")
    path.chmod(mode)
    assert diseases(host)["runtime-directory"].verdict is P
    path.rmdir()
    assert diseases(host) == {}
    path.symlink_to(host.root)
    assert diseases(host)["runtime-directory"].verdict is P


def test_no_tap_and_no_filters(
    host: MadeUpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_name: str) -> NoReturn:
        raise OSError

    monkeypatch.setattr("ctypes.CDLL", refuse)
    host.remove("dev/net/tun")
    found = diseases(host)
    assert found.keys() == {"tap", "libpcap"}
    assert found["tap"].command == "modprobe tun"


def test_a_machine_that_tells_nothing_is_not_well(tmp_path: Path) -> None:
    host = MadeUpHost(tmp_path / "whole")
    for name in ("proc", "sys"):
        (host.root / name).rename(tmp_path / name)
    case = Case(host, (), (0,))
    verdicts = [finding.verdict for finding in examine(case)]
    assert Verdict.UNKNOWN in verdicts
    assert P not in verdicts


# ---- mending


def test_what_is_mended_is_well(
    host: MadeUpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(module: str) -> bool:
        (host.root / "sys/bus/pci/drivers" / module).mkdir(exist_ok=True)
        return True

    def write(path: Path, text: str) -> None:
        path.write_text(text)
        if path.name == "nr_hugepages":
            host.set_pages(PAGES)

    monkeypatch.setattr(pci_bus, "load_module", load)
    monkeypatch.setattr(pci_bus, "write", write)
    host.write(f"{HERE}/numa_node", "1")
    host.set_pages(3)
    host.write(f"lib/modules/{RELEASE}/modules.builtin", "kernel/vfio/vfio-pci.ko")
    (host.root / "sys/bus/pci/drivers/vfio-pci").rmdir()
    for cpu in (2, 3):
        host.write(f"{CPU}/cpu{cpu}/cpufreq/scaling_governor", "ondemand")
        host.write(f"{CPU}/cpu{cpu}/cpuidle/state2/disable", "0")
    host.write("proc/irq/44/effective_affinity_list", "3")
    case = case_of(host)
    ill = examine(case)
    assert {f.name for f in ill if f.verdict is not Verdict.OK} == {
        *("huge-pages", "vfio-pci", "governor", "idle-states", "cpu-interrupts")
    }
    done = [(str(step), why_not) for step, why_not in mend(case, ill)]
    shown = {command for f in ill for command in f.command.split("; ")} - {""}
    assert {command for command, _ in done} == shown
    assert {why_not for _, why_not in done} == {""}
    assert diseases(host) == {}
    assert (host.root / "proc/sys/vm/nr_hugepages").read_text() == f"{PAGES + 10}"
    assert (host.root / CPU / "cpu2/cpufreq/scaling_governor").read_text() == (
        "ondemand\n"
    )


def test_what_cannot_be_mended_is_told(
    host: MadeUpHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci_bus, "load_module", lambda _name: False)
    host.remove("dev/net/tun")
    host.write("proc/irq/44/effective_affinity_list", "3")
    case = case_of(host)
    ill = examine(case)
    host.remove("proc/irq/44/smp_affinity_list")
    errors = [why_not for _, why_not in mend(case, ill)]
    assert len(errors) == 2
    assert errors[0].startswith("modprobe tun: ")
    assert "proc/irq/44/smp_affinity_list: No such file" in errors[1]


def test_one_refusal_does_not_keep_the_others(host: MadeUpHost) -> None:
    host.write("proc/irq/4/smp", "")
    host.write("proc/irq/6/smp", "")
    step = Write("7", "proc/irq/{}/smp", (4, 5, 6))
    done, refused = mend(case_of(host), [warning("", "", step)])
    assert done == (Write("7", "proc/irq/{}/smp", (4, 6)), "")
    assert refused[0] == Write("7", "proc/irq/{}/smp", (5,))
    assert "irq/5/smp: No such file" in refused[1]
    assert [(host.root / f"proc/irq/{n}/smp").read_text() for n in (4, 6)] == [
        *("7",) * 2
    ]


@settings(max_examples=20)
@given(st.sets(st.integers(0, 300), min_size=2, max_size=20))
def test_numbers_are_as_a_shell_and_the_kernel_have_them(numbers: set[int]) -> None:
    assert parse_cpus(format_cpus(numbers)) == sorted(numbers)
    told = subprocess.run(
        ["bash", "-c", f"echo {braces(numbers)}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert [int(word) for word in told.stdout.split()] == sorted(numbers)


# ---- the program


@pytest.fixture
def run(
    host: MadeUpHost, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    monkeypatch.setattr(doctor, "Host", lambda: host)

    def call(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(program, list(words))
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return call


def test_it_says_all_in_lines(
    run: Callable[..., tuple[int, str]], host: MadeUpHost
) -> None:
    status, text = run(CARD, "--cpu", CHOSEN)
    assert status == 0
    assert f"ok           pcie-link {CARD}: x8 at 5 GT/s: 32 Gb/s each way\n" in text
    assert text.endswith("warning: 0, problem: 0, cannot tell: 0\n")
    assert "\x1b" not in text
    host.write(f"{HERE}/current_link_width", "1")
    status, text = run("81:00.0", "--cpu", CHOSEN)
    assert status == 1
    assert f"problem      pcie-link {CARD}: x1 at 5 GT/s: 4 Gb/s each way; " in text
    assert "\n             -> another slot" in text


def test_it_says_all_in_json(
    run: Callable[..., tuple[int, str]],
    host: MadeUpHost,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pci_bus, "load_module", lambda _name: False)
    host.write(f"{CPU}/cpu3/cpufreq/scaling_governor", "powersave")
    host.remove("dev/net/tun")
    status, text = run("--cpu", CHOSEN, "--fix", "--json")
    assert status == 0
    lines = [json.loads(line) for line in text.splitlines()]
    (failed, mended), findings = lines[:2], lines[2:]
    governor = f"/{CPU}/cpu3/cpufreq/scaling_governor"
    assert mended == {"step": f"echo performance >{governor}", "error": None}
    assert failed["step"] == "modprobe tun"
    assert failed["error"].startswith("modprobe tun: ")
    assert {f["name"] for f in findings if f["verdict"] != "ok"} == {"tap"}
    assert all(
        f.keys() == {"name", "subject", "verdict", "now", "should", "command"}
        for f in findings
    )


def test_what_there_is_not_is_refused(
    run: Callable[..., tuple[int, str]], host: MadeUpHost
) -> None:
    with pytest.raises(ConfigError, match="CPU 8: there is none; the machine has 0-7"):
        run("--cpu", "8")
    with pytest.raises(DeviceError, match=r"0000:02:00\.0: No such device"):
        run("02:00.0")
    host.write(f"{HERE}/class", "0x060400")
    with pytest.raises(ConfigError, match=f"{CARD}: a bridge, no network card"):
        run(CARD)
    assert run("--nonsense")[0] == 2
