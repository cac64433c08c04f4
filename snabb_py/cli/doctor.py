"""`snabb-py doctor`: is this machine fit for moving packets, and what would make it?"""

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import click

from snabb_py.cli import doctor_cards as cards
from snabb_py.cli import doctor_cpus as cpus
from snabb_py.cli import doctor_memory as memory
from snabb_py.cli import doctor_rights as rights
from snabb_py.cli.doctor_finding import Action, Case, Finding, Verdict, Write
from snabb_py.engine import pci
from snabb_py.engine.host import CPU, Host, UntoldError, format_cpus
from snabb_py.engine.pci import Device
from snabb_py.engine.worker import parse_cpus
from snabb_py.errors import ConfigError, SnabbError
from snabb_py.nic import intel82599_ids

#: In the order in which they are shown.
OF_THE_MACHINE: dict[str, Callable[[Case], Finding]] = {
    "huge-pages": memory.huge_pages,
    "huge-pages-1g": memory.gigantic_pages,
    "huge-pages-at-boot": memory.huge_pages_at_boot,
    "locked-memory": memory.locked_memory,
    "iommu": memory.iommu,
    "vfio-pci": memory.vfio,
    "vfio-noiommu": memory.unsafe_vfio,
    "cards": cards.cards,
    "rights": rights.rights,
    "runtime-directory": rights.directory,
    "sockets": rights.sockets,
    "tap": rights.tap,
    "libpcap": rights.libpcap,
    "perf": rights.perf,
    "governor": cpus.governor,
    "turbo": cpus.turbo,
    "idle-states": cpus.idle_states,
}
OF_CPUS: dict[str, Callable[[Case], Finding]] = {
    "cpu-usable": cpus.usable,
    "cpu-isolated": cpus.isolated,
    "cpu-ticks": cpus.ticks,
    "cpu-cores": cpus.cores,
    "cpu-interrupts": cpus.interrupts,
}
OF_CARDS: dict[str, Callable[[Case, Device], Finding]] = {
    "model": cards.model,
    "driver": cards.driver,
    "access": cards.access,
    "pcie-link": cards.link,
    "pcie-payload": cards.payload,
    "numa-node": cards.numa_node,
}
COLOURS = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.PROBLEM: "red",
    Verdict.UNKNOWN: "cyan",
}
WIDTH = max(map(len, COLOURS))


def examine(case: Case) -> list[Finding]:
    """Return what all checks find."""
    checks = OF_THE_MACHINE | (OF_CPUS if case.cpus else {})
    found = [_ask(name, partial(check, case)) for name, check in checks.items()]
    for card in case.cards:
        found += [
            replace(_ask(name, partial(check, case, card)), subject=card.address)
            for name, check in OF_CARDS.items()
        ]
    return found


def _ask(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return replace(check(), name=name)
    except UntoldError as reason:
        return Finding(Verdict.UNKNOWN, str(reason), name=name)


def choose_cards(host: Host, addresses: Sequence[str]) -> tuple[Device, ...]:
    """Return the cards at these addresses; without, all that we drive.

    Raises:
        ConfigError: it is no address, or at it no network card.
        DeviceError: there is nothing.
    """
    sysfs = host.root / "sys"
    if not addresses:
        return tuple(
            device
            for device in pci.devices(sysfs=sysfs)
            if intel82599_ids.is_supported(device.vendor, device.device)
        )
    found = [pci.find(address, sysfs=sysfs) for address in addresses]
    for device in found:
        if not device.is_network:
            raise ConfigError(f"{device.address}: a {device.kind}, no network card")
    return tuple(found)


def choose_cpus(host: Host, cpu_list: str | None) -> tuple[int, ...]:
    """Return the CPUs of a list; none of None.

    Raises:
        ConfigError: it is no list, or there is no such CPU.
    """
    chosen = parse_cpus(cpu_list) if cpu_list is not None else []
    with contextlib.suppress(UntoldError):
        present = host.cpu_list(f"{CPU}/present")
        for cpu in chosen:
            if cpu not in present:
                raise ConfigError(
                    f"CPU {cpu}: there is none; the machine has {format_cpus(present)}"
                )
    return tuple(chosen)


def mend(case: Case, findings: Iterable[Finding]) -> Iterator[tuple[Action, str]]:
    """Do what can be done now; yield each step, and why it could not be done or ""."""
    for finding in findings:
        if finding.verdict is not Verdict.OK:
            for action in finding.actions:
                if isinstance(action, Write) and action.numbers:
                    yield from _write_each(action, case.host)
                else:
                    yield action, _do(action, case.host)


def _do(action: Action, host: Host) -> str:
    """Do a step; return why it could not be done, or ""."""
    try:
        action.do(host)
    except SnabbError as error:
        return str(error)
    return ""


def _write_each(action: Write, host: Host) -> Iterator[tuple[Write, str]]:
    """Write to each file, whatever becomes of the others; yield those of each end."""
    ends: dict[bool, list[int]] = {True: [], False: []}
    first = ""
    for number in action.numbers:
        why_not = _do(replace(action, numbers=(number,)), host)
        first = first or why_not
        ends[not why_not].append(number)
    for is_done, numbers in ends.items():
        if numbers:
            part = replace(action, numbers=tuple(numbers))
            yield part, "" if is_done else first


def show(finding: Finding, *, as_json: bool) -> None:
    """Print one finding."""
    if as_json:
        click.echo(json.dumps(finding.as_dict()))
        return
    verdict = click.style(f"{finding.verdict:{WIDTH}}", fg=COLOURS[finding.verdict])
    where = f"{finding.name} {finding.subject}".rstrip()
    should = f"; should be: {finding.should}" if finding.should else ""
    click.echo(f"{verdict}  {where}: {finding.now}{should}")
    if finding.command:
        click.echo(f"{'':{WIDTH}}  -> {finding.command}")


def show_step(action: Action, why_not: str, *, as_json: bool) -> None:
    """Print what has been done, or could not be."""
    if as_json:
        click.echo(json.dumps({"step": str(action), "error": why_not or None}))
    else:
        click.echo(f"{'failed' if why_not else 'done':{WIDTH}}  {why_not or action}")


@click.command(
    "doctor",
    epilog="Exit status: 0 without problems (there may be warnings), 1 with some.",
)
@click.argument("addresses", metavar="[PCI]...", nargs=-1)
@click.option(
    "--cpu",
    "cpu_list",
    metavar="LIST",
    help='CPUs that workers are to have, such as "2,4-5".',
)
@click.option("--fix", is_flag=True, help="Do what can be done now; then look again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object to the line.")
def program(
    *, addresses: tuple[str, ...], cpu_list: str | None, fix: bool, as_json: bool
) -> None:
    """Say whether this machine is fit for moving packets, and what would make it.

    Of each thing it says what is and, where that is not well, what should be and the
    command that mends it. It looks at memory, the IOMMU, rights, sockets and CPUs; at
    the cards at the addresses PCI, without one at all that snabb-py drives; and with
    --cpu at the CPUs that their workers are to have: NUMA node, isolation, cores,
    interrupts.

    A warning is about speed or safety, a problem keeps programs from their work. What
    the machine does not tell is "cannot tell", with the reason.

    --fix runs, as root, the commands shown that need no new boot, no hands and no
    decision, and says which: huge pages, modules, CPUs that are offline, governors,
    idle states, interrupts. All of it is forgotten at the next boot. Transparent huge
    pages and /dev/vhost-net do not matter here.

    \b
    Examples:
      snabb-py doctor
      snabb-py doctor 01:00.0 01:00.1 --cpu 2,4
      snabb-py doctor --cpu 2,4 --fix
      snabb-py doctor --json | jq -r 'select(.verdict == "problem").command'
    """
    host = Host()
    chosen = choose_cpus(host, cpu_list)

    def look() -> tuple[Case, list[Finding]]:
        case = Case(host, choose_cards(host, addresses), chosen)
        return case, examine(case)

    case, findings = look()
    if fix:
        for action, why_not in mend(case, findings):
            show_step(action, why_not, as_json=as_json)
        case, findings = look()
    for finding in findings:
        show(finding, as_json=as_json)
    counts = Counter(finding.verdict for finding in findings)
    if not as_json:
        click.echo(", ".join(f"{verdict}: {counts[verdict]}" for verdict in COLOURS))
    if counts[Verdict.PROBLEM]:
        sys.exit(1)
