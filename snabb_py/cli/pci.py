"""`snabb-py pci`: the machine's cards, and who has them."""

import json
from typing import Any

import click

from snabb_py.cli.usage import Group
from snabb_py.engine import pci
from snabb_py.engine.pci import Device
from snabb_py.nic import intel82599_ids

COLUMNS = ("address", "what it is", "driver", "interfaces", "IOMMU", "NUMA")


def what_it_is(device: Device) -> str:
    """Return a card's name if we know it, else its class, and its ids."""
    name = intel82599_ids.describe(device.vendor, device.device)
    return f"{name or device.kind} ({device.vendor:04x}:{device.device:04x})"


def describe(device: Device) -> dict[str, Any]:
    """Return a device as plain data."""
    return {
        "address": device.address,
        "vendor": f"{device.vendor:04x}",
        "device": f"{device.device:04x}",
        "class": f"{device.class_code:06x}",
        "name": what_it_is(device),
        "supported": intel82599_ids.is_supported(device.vendor, device.device),
        "driver": device.driver,
        "interfaces": {
            name: "up" if device.is_up(name) else "down" for name in device.interfaces
        },
        "iommu_group": device.iommu_group,
        "group_devices": list(device.group_devices),
        "numa_node": device.numa_node,
    }


def row_of(described: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a device's line."""
    mark = "* " if described["supported"] else "  "
    interfaces = [f"{name} {state}" for name, state in described["interfaces"].items()]
    group, node = described["iommu_group"], described["numa_node"]
    return (
        mark + described["address"],
        described["name"],
        described["driver"] or "-",
        ", ".join(interfaces) or "-",
        "-" if group is None else str(group),
        "-" if node is None else str(node),
    )


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Return lines with columns as wide as need be."""
    rows = [(f"  {COLUMNS[0]}", *COLUMNS[1:]), *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


@click.group("pci", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def program() -> None:
    """Show PCI cards; lend them to user space and give them back to the kernel.

    A card has one driver. Programs that drive a card themselves take it from the
    kernel's driver when they start and give it back when they end, however they end:
    `bind` and `unbind` are for doing that by hand.

    With an IOMMU the card goes to vfio-pci: it then reaches only memory that the
    program has mapped for it. Intel's IOMMUs are switched on by intel_iommu=on on the
    kernel's command line. Without one the program takes the card's files in sysfs, as
    root, and the card reaches all memory: no driver is needed.

    \b
    Examples:
      snabb-py pci list
      snabb-py pci bind 01:00.0
      snabb-py pci bind 01:00.0 --driver none --force
      snabb-py pci unbind 01:00.0
    """


@program.command("list")
@click.option(
    "--all", "everything", is_flag=True, help="Other than network cards, too."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object to the line.")
def list_devices(*, everything: bool, as_json: bool) -> None:
    """List network cards: who has them, what hangs on them.

    A star marks the cards that snabb-py drives. A card with an IOMMU group is reached
    by VFIO; all cards of one group must leave the kernel's drivers together.

    \b
    Examples:
      snabb-py pci list
      snabb-py pci list --json | jq -r 'select(.supported).address'
    """
    found = [
        describe(device) for device in pci.devices() if everything or device.is_network
    ]
    if as_json:
        for described in found:
            click.echo(json.dumps(described))
        return
    if not found:
        click.echo("no network cards on PCI; snabb-py pci list --all shows the rest")
        return
    for line in table([row_of(described) for described in found]):
        click.echo(line)


@program.command()
@click.argument("address")
@click.option(
    "--driver",
    default=pci.VFIO,
    show_default=True,
    metavar="NAME",
    help='The driver that gets it; "none": none does.',
)
@click.option("--force", is_flag=True, help="Even if a network in use goes through it.")
def bind(*, address: str, driver: str, force: bool) -> None:
    """Take the card at ADDRESS from the kernel's driver and give it to another.

    Refused without --force while a network interface of the card is up, has an address
    or carries the default route: all connections through it end.

    \b
    Examples:
      snabb-py pci bind 0000:01:00.0
      snabb-py pci bind 01:00.0 --driver none --force
    """
    before = pci.find(address)
    pci.bind(before, driver, force=force)
    report(before)


@program.command()
@click.argument("address")
def unbind(*, address: str) -> None:
    """Give the card at ADDRESS back to the kernel's own driver for it.

    \b
    Examples:
      snabb-py pci unbind 0000:01:00.0
    """
    before = pci.find(address)
    pci.unbind(before)
    report(before)


def report(before: Device) -> None:
    """Print who has a device now, and who had it."""
    now = pci.find(before.address)
    old, new = before.driver or "no driver", now.driver or "no driver"
    was = "as before" if old == new else f"before: {old}"
    click.echo(f"{now.address}: {new} ({was})")
