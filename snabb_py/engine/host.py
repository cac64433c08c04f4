"""What the machine says of itself, in /proc and /sys: facts, which nobody judges here.

Each is read when it is asked for, below a root that need not be "/". What the machine
does not tell is `UntoldError`, with the reason. Imports worker, for lists of CPUs.

Source: Documentation/ABI/stable/sysfs-devices-system-cpu, sysfs-devices-node,
Documentation/admin-guide/mm/hugetlbpage.rst, Documentation/admin-guide/cgroup-v2.rst,
proc(5).
"""

import contextlib
import errno
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snabb_py.engine.worker import parse_cpus
from snabb_py.errors import ConfigError

CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"
#: Bits of the masks in /proc/self/status. Source: include/uapi/linux/capability.h.
CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_ADMIN": 21,
    "CAP_BPF": 39,
}


class UntoldError(Exception):
    """A fact that cannot be had; the text says why."""


@dataclass(frozen=True)
class IdleState:
    """How an idle CPU sleeps.

    Attributes:
        name: "C6".
        latency_us: what it takes to wake up.
    """

    name: str
    latency_us: int

    def __str__(self) -> str:
        return f"{self.name}, {self.latency_us} us to wake up"


@dataclass(frozen=True)
class Interrupt:
    """A device's interrupt.

    Attributes:
        number: of its directory in /proc/irq.
        name: of its handler, "eth0-rx-0".
        cpus: that take it, as far as they shall go on to.
    """

    number: int
    name: str
    cpus: tuple[int, ...]


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        root: where its "proc", "sys", "dev"... are.

    Raises:
        UntoldError: by all methods that do not say otherwise.
    """

    root: Path = Path("/")

    # ---- files

    def read(self, name: str) -> str:
        """Return what is in a file, such as "proc/cmdline", without the line's end."""
        try:
            return (self.root / name).read_text(errors="replace").strip()
        except OSError as error:
            raise UntoldError(f"/{name}: {error.strerror}") from None

    def number(self, name: str) -> int:
        """Return the number that is in a file."""
        text = self.read(name)
        try:
            return int(text)
        except ValueError:
            raise UntoldError(f'/{name}: "{text[:40]}" is no number') from None

    def cpu_list(self, name: str) -> list[int]:
        """Return the CPUs or nodes that a file lists; none of an empty list."""
        text = self.read(name)
        if text in {"", "(null)"}:
            return []
        try:
            return parse_cpus(text)
        except ConfigError:
            raise UntoldError(f'/{name}: "{text[:40]}" is no list') from None

    def has(self, name: str) -> bool:
        """Whether there is such a file; told always."""
        return (self.root / name).exists()

    def glob(self, pattern: str) -> list[Path]:
        """Return the files that there are, in order; told always."""
        return sorted(self.root.glob(pattern))

    # ---- CPUs

    def node_of(self, cpu: int) -> int:
        """Return the NUMA node of a CPU."""
        for path in self.glob(f"{CPU}/cpu{cpu}/node[0-9]*"):
            return int(path.name.removeprefix("node"))
        raise UntoldError(f"no NUMA node of CPU {cpu} in /{CPU}/cpu{cpu}")

    def siblings(self, cpu: int) -> list[int]:
        """Return the other threads of a CPU's core."""
        names = f"{CPU}/cpu{cpu}/topology/thread_siblings_list"
        return [other for other in self.cpu_list(names) if other != cpu]

    def isolated(self) -> set[int]:
        """Return the CPUs that get no work but what is pinned there; told always.

        By the kernel argument isolcpus, or by isolated partitions of cgroup cpusets.
        """
        return self._union(f"{CPU}/isolated", "sys/fs/cgroup/cpuset.cpus.isolated")

    def tickless(self) -> set[int]:
        """Return the CPUs of the kernel argument nohz_full; told always."""
        return self._union(f"{CPU}/nohz_full")

    def _union(self, *names: str) -> set[int]:
        cpus: set[int] = set()
        for name in names:
            with contextlib.suppress(UntoldError):
                cpus.update(self.cpu_list(name))
        return cpus

    def cpuset(self) -> list[int]:
        """Return the CPUs that our cgroup gives us; those online without cpusets."""
        for line in self.read("proc/self/cgroup").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "cpuset":
                name = f"sys/fs/cgroup/cpuset{path}/cpuset.effective_cpus"
            elif not controllers:
                name = f"sys/fs/cgroup{path}/cpuset.cpus.effective"
            else:
                continue
            if self.has(name):
                return self.cpu_list(name)
        return self.cpu_list(f"{CPU}/online")

    def governor(self, cpu: int) -> str:
        """Return what sets the frequency of a CPU: "performance"..."""
        return self.read(f"{CPU}/cpu{cpu}/cpufreq/scaling_governor")

    def idle_states(self, cpu: int) -> list[IdleState]:
        """Return the states that a CPU may enter when it has nothing to do.

        Source: Documentation/admin-guide/pm/cpuidle.rst; a limit of 0 is none, "n/a"
        lets it only poll.
        """
        limit = "0"
        with contextlib.suppress(UntoldError):
            limit = self.read(f"{CPU}/cpu{cpu}/power/pm_qos_resume_latency_us")
        states = []
        directories = self.glob(f"{CPU}/cpu{cpu}/cpuidle/state*")
        if not directories:
            raise UntoldError(f"no /{CPU}/cpu{cpu}/cpuidle")
        for path in directories:
            name = str(path.relative_to(self.root))
            latency_us = self.number(f"{name}/latency")
            is_allowed = limit == "0" or (limit.isdigit() and latency_us <= int(limit))
            if is_allowed and not self.number(f"{name}/disable"):
                states.append(IdleState(self.read(f"{name}/name"), latency_us))
        return states

    def interrupts(self) -> list[Interrupt]:
        """Return all interrupts of devices."""
        found = []
        for path in self.glob("proc/irq/[0-9]*"):
            name = str(path.relative_to(self.root))
            with contextlib.suppress(UntoldError):  # it has just gone, or is nowhere
                # What takes it changes only when it comes next.
                allowed = set(self.cpu_list(f"{name}/smp_affinity_list"))
                now = self.cpu_list(f"{name}/effective_affinity_list")
                cpus = [cpu for cpu in now if cpu in allowed]
                handlers = [child.name for child in path.iterdir() if child.is_dir()]
                # One without a handler never comes.
                if handlers:
                    label = ",".join(sorted(handlers))
                    found.append(Interrupt(int(path.name), label, tuple(cpus)))
        if not found:
            raise UntoldError("no interrupts in /proc/irq")
        return sorted(found, key=lambda irq: irq.number)

    def is_managed(self, interrupt: int) -> bool:
        """Whether the kernel alone says which CPU takes an interrupt; root is told.

        What is written is no list of CPUs, and refused for that; but first because
        nobody may write one (kernel/irq/proc.c; EIO before Linux 6.10).
        """
        path = self.root / f"proc/irq/{interrupt}/smp_affinity_list"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.write(fd, b"x")
        except OSError as error:
            return error.errno in {errno.EPERM, errno.EIO}
        finally:
            os.close(fd)
        return False

    def is_running(self, program: str) -> bool:
        """Whether a process has this name; told always."""
        for path in self.glob("proc/[0-9]*/comm"):
            with contextlib.suppress(UntoldError):
                if self.read(str(path.relative_to(self.root))) == program:
                    return True
        return False

    # ---- memory

    def huge_pages(self, kib: int = 2048, node: int | None = None) -> tuple[int, int]:
        """Return how many huge pages there are, and how many nobody uses.

        Args:
            kib: size of one.
            node: those of a NUMA node; None: all.
        """
        base = "sys/kernel/mm" if node is None else f"{NODE}/node{node}"
        directory = f"{base}/hugepages/hugepages-{kib}kB"
        return tuple(
            self.number(f"{directory}/{name}")
            for name in ("nr_hugepages", "free_hugepages")
        )  # type: ignore[return-value]

    def nodes(self) -> list[int]:
        """Return the NUMA nodes; [0] where there are none."""
        name = f"{NODE}/online"
        return self.cpu_list(name) if self.has(name) else [0]

    # ---- this process

    def status(self, key: str) -> str:
        """Return a line of /proc/self/status, by its name."""
        found = re.search(
            rf"^{key}:\s*(.*)$", self.read("proc/self/status"), re.MULTILINE
        )
        if not found:
            raise UntoldError(f"/proc/self/status: no {key}")
        return found[1]

    def missing(self, capabilities: Iterable[str]) -> list[str]:
        """Return those of some capabilities that this process does not have."""
        mask = int(self.status("CapEff"), 16)
        return [name for name in capabilities if not mask >> CAPABILITIES[name] & 1]

    def locked_memory(self) -> int | None:
        """Return how many bytes this process may lock; None: no limit."""
        limits = self.read("proc/self/limits")
        found = re.search(r"^Max locked memory\s+(\S+)", limits, re.MULTILINE)
        if not found:
            raise UntoldError("/proc/self/limits: no locked memory")
        return None if found[1] == "unlimited" else int(found[1])

    # ---- the kernel

    def version(self) -> tuple[int, int]:
        """Return the kernel's version, (6, 1)."""
        text = self.read("proc/sys/kernel/osrelease")
        found = re.match(r"(\d+)\.(\d+)", text)
        if not found:
            raise UntoldError(f'/proc/sys/kernel/osrelease: "{text[:40]}"')
        return int(found[1]), int(found[2])

    def arguments(self) -> list[str]:
        """Return the words that the kernel was started with."""
        return self.read("proc/cmdline").split()

    def lacks_module(self, name: str) -> bool:
        """Whether the kernel's directory of modules has no such one; told always.

        Where there is no directory, as in a container, modprobe may know better.
        """
        with contextlib.suppress(UntoldError):
            directory = f"lib/modules/{self.read('proc/sys/kernel/osrelease')}"
            modules = self.read(f"{directory}/modules.dep")
            modules += "\n" + self.read(f"{directory}/modules.builtin")
            return not re.search(rf"/{re.escape(name)}\.ko", modules)
        return False

    def protocols(self) -> set[str]:
        """Return the kinds of sockets that the kernel has: "PACKET", "XDP"..."""
        lines = self.read("proc/net/protocols").splitlines()
        return {line.split()[0] for line in lines[1:] if line.strip()}


def format_cpus(cpus: Iterable[int]) -> str:
    """Return a list of CPUs as the kernel writes it, "0,4-7"."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)


def distance(
    host: Host, node: int | None, cpus: Iterable[int]
) -> tuple[str, str] | None:
    """Return whether packets of a card cross from one NUMA node to another.

    Args:
        host: the machine.
        node: of the card; None: the machine has but one, or does not tell.
        cpus: of its workers; none: they run wherever the kernel puts them.

    Returns:
        What is, and what should be, in words; None: all is well.
    """
    if node is None or len(host.nodes()) < 2:  # noqa: PLR2004
        return None
    cpus = list(cpus)
    far = [cpu for cpu in cpus if host.node_of(cpu) != node]
    if cpus and not far:
        return None
    now = f"on another NUMA node than CPU {format_cpus(far)}"
    near = format_cpus(host.cpu_list(f"{NODE}/node{node}/cpulist"))
    should = f"CPUs of its node {node}: {near or 'it has none'}"
    return now if far else "no CPU is chosen", should
