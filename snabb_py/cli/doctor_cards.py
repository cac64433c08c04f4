"""What `snabb-py doctor` looks at: a card, how it is plugged in and who has it.

Each check takes a `Case` and a card and returns one `Finding`, or raises `UntoldError`.
"""

import os
import re

from snabb_py.cli.doctor_finding import Advice, Case, Finding, ok, problem, warning
from snabb_py.cli.pci import what_it_is
from snabb_py.engine import pci, pci_express
from snabb_py.engine.host import UntoldError, distance
from snabb_py.engine.pci import Device
from snabb_py.engine.vfio import check_group
from snabb_py.errors import DeviceError
from snabb_py.nic import intel82599_ids

#: Of one port, each way, before what PCI Express adds.
PORT_GBPS = 10
LOCKDOWN = "sys/kernel/security/lockdown"


def cards(case: Case) -> Finding:
    """Whether there are any."""
    return ok(", ".join(c.address for c in case.cards) or "none that we drive")


def model(case: Case, card: Device) -> Finding:
    """Whether we drive it."""
    del case
    if intel82599_ids.is_supported(card.vendor, card.device):
        return ok(what_it_is(card))
    return problem(
        what_it_is(card), "of the 82599 family", Advice("raw: with its interface")
    )


def driver(case: Case, card: Device) -> Finding:
    """Whether the card may be taken from the driver that it has."""
    del case
    if card.driver is None:
        return ok("none")
    if card.driver == pci.VFIO or not (reasons := pci.obstacles(card)):
        return ok(f"{card.driver}: it lends it to programs while they run")
    what, _, command = reasons[0].partition(": ")
    return problem(f"{card.driver}: {what}", "not in use", Advice(command))


def access(case: Case, card: Device) -> Finding:
    """Whether, and how, a program reaches the card."""
    if card.iommu_group is not None:
        try:
            check_group(card, "")
        except DeviceError as error:
            shared = error.hint.partition(" of the same")[0]
            return problem(
                f"in IOMMU group {card.iommu_group} with {shared}",
                "all cards of a group away from the kernel's drivers",
                Advice(
                    "; ".join(
                        f"snabb-py pci bind {address}"
                        for address in re.findall(r"\S+:\S+\.\d", shared)
                    )
                ),
            )
        return _vfio_access(case, card, card.iommu_group)
    if case.host.has(LOCKDOWN) and "[none]" not in case.host.read(LOCKDOWN):
        return problem(
            "locked down: with Secure Boot the kernel gives no card without an IOMMU",
            "by VFIO, or not locked down",
            Advice("switch the IOMMU on: intel_iommu=on, or Secure Boot off"),
        )
    return warning(
        "through sysfs, by physical addresses",
        "by VFIO: it needs an IOMMU, and no root",
        Advice("kernel arguments intel_iommu=on iommu=pt"),
    )


def _vfio_access(case: Case, card: Device, group: int) -> Finding:
    """Whether the card is ours to reach by VFIO, who may not be root."""
    now = f"by VFIO, IOMMU group {group}"
    if not case.host.missing(["CAP_DAC_OVERRIDE"]):
        return ok(now)
    node = pci.vfio_node(group)
    if card.driver != pci.VFIO:
        step = Advice(f"snabb-py pci bind {card.address}, as root")
        return problem(f"{now}: not vfio-pci has it", "vfio-pci's", step)
    if not os.access(case.host.root / node.relative_to("/"), os.R_OK | os.W_OK):
        step = Advice(f"chown {os.geteuid()} {node}, as root")
        return problem(f"{now}: {node} is not ours to open", "ours", step)
    return ok(now)


def link(case: Case, card: Device) -> Finding:
    """Whether the slot gives the card all the lanes and the speed it has."""
    del case
    now, best = pci_express.links(card)
    text = f"{now}: {now.gbps:.0f} Gb/s each way"
    if now.gbps >= best.gbps:
        return ok(text)
    return (problem if now.gbps < PORT_GBPS else warning)(
        text,
        f"{best}: {best.gbps:.0f} Gb/s; a port needs {PORT_GBPS} and what PCI adds",
        Advice("another slot, or the firmware's settings of this one"),
    )


def payload(case: Case, card: Device) -> Finding:
    """Whether packets of PCI Express are as large as they may be."""
    del case
    found = pci_express.payload(card)
    text = f"{found.now} bytes"
    if found.now >= found.possible:
        return ok(text)
    return warning(
        text,
        f"{found.possible} bytes, which all on the way can take",
        Advice("kernel argument pci=pcie_bus_perf"),
    )


def numa_node(case: Case, card: Device) -> Finding:
    """Whether the workers run where the card is."""
    nodes = case.host.nodes()
    if card.numa_node is None and len(nodes) > 1:
        raise UntoldError("the firmware does not tell")
    wrong = distance(case.host, card.numa_node, case.cpus)
    if wrong is None:
        only = "the only one" if len(nodes) == 1 else "as the CPUs"
        return ok(f"{card.numa_node or 0}, {only}")
    now, should = wrong
    return warning(f"{card.numa_node}; {now}", should, Advice("--cpu with these"))
