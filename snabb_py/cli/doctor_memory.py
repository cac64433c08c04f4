"""What `snabb-py doctor` looks at: memory and the IOMMU.

Each check takes a `Case` and returns one `Finding`, or raises `UntoldError`.
"""

import contextlib
import re

from snabb_py._native import lib
from snabb_py.cli.cards import SIM_PACKETS
from snabb_py.cli.doctor_finding import (
    Advice,
    Case,
    Finding,
    Load,
    Reserve,
    Write,
    ok,
    problem,
    warning,
)
from snabb_py.engine.host import NODE, Host, UntoldError
from snabb_py.engine.memory import HUGE_PAGE
from snabb_py.engine.pci import VFIO
from snabb_py.engine.vfio import TYPE1_MODULE

#: Of 2 MiB: packets for two software cards, more than for two real ones.
PAGES = -(-lib.pool_memory_needed(2 * SIM_PACKETS, 1024) // HUGE_PAGE)
GIBIBYTE = 1 << 20  #: in KiB
SYSCTL_FILE = "/etc/sysctl.d/90-snabb-py.conf"
#: In the order of sysctl.d(5), the weakest first.
SYSCTL_DIRECTORIES = ("usr/lib/sysctl.d", "run/sysctl.d", "etc/sysctl.d")
#: Modules, and what is there when they are.
VFIO_MODULES = {
    VFIO: f"sys/bus/pci/drivers/{VFIO}",
    TYPE1_MODULE: f"sys/module/{TYPE1_MODULE}",
}
NOIOMMU = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode"


def huge_pages(case: Case) -> Finding:
    """Whether packets can lie on huge pages, those of their card's NUMA node."""
    total, free = case.host.huge_pages()
    nodes = case.host.nodes()
    now = f"{free} of {total} free, of 2 MiB"
    if len(nodes) > 1:
        now += f" ({', '.join(_node_text(case.host, node) for node in nodes)})"
    should = f"{PAGES} free, for the packets of two cards"
    for node in {card.numa_node for card in case.cards}:
        there, unused = case.host.huge_pages(node=node)
        if node is not None and len(nodes) > 1 and unused < PAGES:
            name = f"{NODE}/node{node}/hugepages/hugepages-2048kB/nr_hugepages"
            write = Write(str(there - unused + PAGES), name)
            return warning(now, f"{should}, on node {node} as the card", write)
    if free >= PAGES:
        return ok(now)
    step = Reserve(PAGES, total - free + PAGES)
    # Whoever may reserve them does when a program starts; later there may be none.
    if case.cards and not case.has_iommu and case.host.missing(["CAP_SYS_ADMIN"]):
        return problem(now, should, step)
    return warning(now, should, step)


def _node_text(host: Host, node: int) -> str:
    total, free = host.huge_pages(node=node)
    return f"node {node}: {free} of {total}"


def gigantic_pages(case: Case) -> Finding:
    """Whether memory is locked up in pages that nobody here uses."""
    try:
        total, free = case.host.huge_pages(GIBIBYTE)
    except UntoldError:
        return ok("the CPU or the kernel has none of 1 GiB; none is needed")
    if free:
        step = Write("0", "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages")
        return warning(
            f"{free} of {total} free, of 1 GiB",
            "none, unless for other programs: snabb-py uses those of 2 MiB",
            Advice(str(step)),
        )
    return ok(f"{free} of {total} free, of 1 GiB; none is needed")


def huge_pages_at_boot(case: Case) -> Finding:
    """Whether huge pages are reserved before memory is in pieces."""
    argument, setting = _boot_argument(case.host), _sysctl(case.host)
    now = f"the kernel argument says {argument or 'nothing'}, sysctl.d {setting or 0}"
    if max(argument, setting) >= PAGES:
        return ok(now)
    return warning(
        now,
        f"{PAGES} at least: later the memory may be in pieces",
        Advice(f"echo vm.nr_hugepages={PAGES} >{SYSCTL_FILE}"),
        Advice(f"or the kernel argument hugepages={PAGES}"),
    )


def _boot_argument(host: Host) -> int:
    """Return how many pages of 2 MiB the kernel was told to reserve."""
    size, pages = "2M", 0
    for word in host.arguments():
        key, _, value = word.partition("=")
        if key in {"default_hugepagesz", "hugepagesz"}:
            size = value
        elif key == "hugepages" and size.upper() == "2M" and value.isdecimal():
            pages = int(value)
    return pages


def _sysctl(host: Host) -> int:
    """Return what the last of the files says that are read at boot."""
    files = {
        path.name: path
        for directory in SYSCTL_DIRECTORIES
        for path in host.glob(f"{directory}/*.conf")
    }
    ordered = [str(files[name].relative_to(host.root)) for name in sorted(files)]
    pages = 0
    for name in (*ordered, "etc/sysctl.conf"):
        with contextlib.suppress(UntoldError):
            pattern = r"^\s*-?vm[./]nr_hugepages\s*=\s*(\d{1,9})\s*$"
            for found in re.finditer(pattern, host.read(name), re.MULTILINE):
                pages = int(found[1])
    return pages


def locked_memory(case: Case) -> Finding:
    """Whether VFIO and the kernel's XDP sockets may pin the packets."""
    limit = case.host.locked_memory()
    text = "no limit" if limit is None else f"{limit >> 10} KiB"
    if limit is None or limit >= PAGES * HUGE_PAGE:
        return ok(text)
    if not case.host.missing(["CAP_IPC_LOCK"]):
        return ok(f"{text}; it does not hold for us")
    users = "xdp: and cards" if case.has_iommu else "xdp:"
    return (problem if case.cards and case.has_iommu else warning)(
        text,
        f"{PAGES * HUGE_PAGE >> 10} KiB at least, for {users}",
        Advice("ulimit -l unlimited, as root; LimitMEMLOCK=infinity in a unit"),
    )


def iommu(case: Case) -> Finding:
    """Whether an IOMMU stands between cards and memory."""
    groups = len(case.host.glob("sys/kernel/iommu_groups/*"))
    if case.has_iommu:
        return ok(f"on, {groups} groups")
    if not case.cards:
        return ok("off; there is no card that it would keep from memory")
    return warning(
        "off: a card reaches all memory, and its driver must be root",
        "on",
        Advice(f"switch it on in the firmware; kernel arguments {_iommu_words(case)}"),
    )


def _iommu_words(case: Case) -> str:
    is_amd = "AuthenticAMD" in case.host.read("proc/cpuinfo")
    return "iommu=pt" if is_amd else "intel_iommu=on iommu=pt"


def vfio(case: Case) -> Finding:
    """Whether cards can be had by VFIO."""
    if not case.has_iommu:
        return ok("without an IOMMU it is not used")
    lacking = [name for name, place in VFIO_MODULES.items() if not case.host.has(place)]
    if not lacking:
        return ok("loaded")
    if any(map(case.host.lacks_module, lacking)):
        return (problem if case.cards else warning)(
            f"the kernel has no {' and '.join(lacking)}",
            "there: cards with an IOMMU are reached by it",
            Advice("a kernel with CONFIG_VFIO_PCI and CONFIG_VFIO_IOMMU_TYPE1"),
        )
    return warning(
        f"not loaded: {', '.join(lacking)}",
        "loaded: a user may not do that",
        *map(Load, lacking),
    )


def unsafe_vfio(case: Case) -> Finding:
    """Whether VFIO gives away cards that nothing keeps from memory."""
    if not case.host.has(NOIOMMU) or case.host.read(NOIOMMU) in {"N", "0"}:
        return ok("off")
    return warning(
        "on: whoever has a card's group has all memory",
        "off: snabb-py does not use it",
        Advice(str(Write("N", NOIOMMU))),
    )
