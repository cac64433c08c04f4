"""`snabb-py sim82599`: software Intel 82599 cards for virtual machines."""

import contextlib
import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from snabb_py.cli.card_report import CardMeter, CardReporter
from snabb_py.cli.card_wires import Port, join, wires_of
from snabb_py.cli.interfaces import UNFINISHED, memory_settings
from snabb_py.cli.options import engine_options, report_options
from snabb_py.cli.run import Ending
from snabb_py.cli.terminal import printable
from snabb_py.engine.config import Config
from snabb_py.engine.control import Verb
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from snabb_py.nic.mac import parse_mac
from snabb_py.nic.model82599 import MAC_PREFIX, Card
from snabb_py.nic.vfio_user import Server, Servers

MOST_CARDS = 64


def count_macs(first: bytes, ncards: int) -> list[bytes]:
    """Return each card's address: the last three bytes count on.

    Raises:
        ConfigError: they would begin anew.
    """
    number, last = int.from_bytes(first[3:], "big"), 2**24 - ncards
    if number > last:
        highest = first[:3] + last.to_bytes(3, "big")
        raise ConfigError(
            f'MAC address "{first.hex(":")}": the last three bytes count on for '
            f"{ncards} cards; begin with {highest.hex(':')} at most"
        )
    return [first[:3] + (number + n).to_bytes(3, "big") for n in range(ncards)]


def qemu_options(paths: Sequence[Path]) -> list[str]:
    """Return lines of what QEMU is to be called with for these sockets, for a shell."""
    lines = [
        "-machine q35,memory-backend=mem -m 512M",
        "-object memory-backend-memfd,id=mem,size=512M,share=on",
    ]
    for i, path in enumerate(paths):
        device = {
            "driver": "vfio-user-pci",
            "bus": f"rp{i}",
            "socket": {"type": "unix", "path": printable(str(path.absolute()))},
        }
        # Not on the root bus: the card would lose its link there, being PCI Express.
        lines.append(
            f"-device pcie-root-port,id=rp{i},slot={i + 1} "
            f"-device {shlex.quote(json.dumps(device, separators=(',', ':')))}"
        )
    return [*(f"  {line} \\" for line in lines[:-1]), f"  {lines[-1]}"]


def cable_verb(ports: Sequence[Port]) -> Verb:
    """Return the verb of the control socket that pulls and plugs cables."""
    by_name = {port.name: port for port in ports}

    def cable(_engine: Engine, request: dict[str, Any]) -> dict[str, bool]:
        name, plugged = request.get("card"), request.get("plugged")
        if not isinstance(name, str) or name not in by_name:
            raise ConfigError(f"card: expected one of {', '.join(by_name)}")
        if not isinstance(plugged, bool):
            raise ConfigError("plugged: expected true or false")
        port = by_name[name]
        # A cable between two cards has two ends, and neither has a signal without it.
        ends = ports if port.wire == "cable" else [port]
        for end in ends:
            end.plug(plugged)
        return {port.name: port.is_plugged for port in ports}

    return cable


def run(  # noqa: PLR0913 - what a run consists of
    engine: Engine,
    config: Config,
    ports: Sequence[Port],
    reporter: CardReporter,
    *,
    duration: float | None,
    interval: float,
) -> dict[str, Any]:
    """Serve the cards until the end, with reports; return the summary."""
    engine.verbs["cable"] = (
        'pull or plug a card\'s cable: "card": NAME, "plugged": true or false',
        cable_verb(ports),
    )
    engine.commit(config)
    paths = [port.server.path for port in ports]
    reporter.log("QEMU's options:", *qemu_options(paths))
    for path in paths:
        if printable(str(path.absolute())) != str(path.absolute()):
            reporter.log(f"{path}: is not UTF-8, as QEMU wants it: make a link to it")
    meter = CardMeter(engine, ports, time.monotonic())
    with Servers([port.server for port in ports]):
        timer = engine.timers.at(
            meter.start + interval, lambda: reporter.show(meter.look()), interval
        )
        try:
            engine.main(duration=duration)
            ended = time.monotonic()
            engine.drain()
            return meter.summary(ended)
        finally:
            timer.cancel()
            reporter.stop()


@click.command(
    "sim82599",
    epilog="Ctrl-C, SIGTERM and SIGHUP end it with the summary, as --duration does.",
)
@click.argument("sockets", nargs=-1, required=True, metavar="SOCKET...")
@click.option(
    "--wire",
    "wires",
    multiple=True,
    metavar="WORD",
    help="What a card's cable leads to; one for each card, in order.",
)
@click.option(
    "--mac", metavar="MAC", help="Address of the first card; the others count on."
)
@report_options
@engine_options
def program(  # noqa: PLR0913 - the options of a program
    *,
    sockets: tuple[str, ...],
    wires: tuple[str, ...],
    mac: str | None,
    duration: float | None,
    interval: float,
    as_json: bool,
    cpu: int | None,
    busy: bool,
    huge_pages: str,
) -> None:
    """Serve a software Intel 82599 at each SOCKET, for virtual machines.

    QEMU 10.1 or newer reaches the card at the socket by the vfio-user protocol; to the
    guest it is a PCI card that its own driver takes (Linux: ixgbe). The options that
    QEMU needs are shown at the start: a root port, the card behind it, and memory that
    is shared, since the card reads and writes it itself.

    \b
    A wire is one of
      null                     gives nothing, swallows everything; the default
      sink                     checks numbers and checksums of what comes
      gen[,OPTION]...          makes frames for the card, and is a sink
      cable                    joins two cards to each other
      raw:IFNAME[,ring=N]      a network interface of the kernel
      xdp:IFNAME[,queue=N]     a queue of one, past the kernel
      tap:NAME                 a tap interface, made if it is not there
      pcap:IN.pcap[,OUT.pcap]  a capture to send, and one to write

    Options of gen: rate=100kpps or rate=1.5Gbps (1e5 packets a second; at most the
    cable's 10 Gb/s, 14.88 Mpps of the smallest), size=N with FCS (the smallest;
    64+1518: in turns; imix), flows=N (16), vlan=N, ip=6. The frames are UDP to the
    card's address, numbered: of those that the guest sends back, what is lost, late or
    damaged is counted.

    A socket serves one virtual machine at a time; when it goes, the card is reset and
    waits for the next. One that does not say its protocol's version within 5 seconds,
    or stops in the middle of a message, has to go. Memory that a guest's driver did not
    give to the card is out of its reach: what it tried is counted as dma-read-unmapped
    and dma-write-unmapped.

    Reports come every --interval, with rates since the one before; the summary comes at
    the end, with rates over the whole run, and is all that comes of a --duration that
    is shorter. --duration begins when the sockets can be connected to. Packets are
    counted from the start, whichever virtual machine was there: received are those that
    came to the card over its wire or from its own MAC loopback, dropped ones too; sent
    are those that left on the wire. Bytes are without FCS; Gbps are on the wire, with
    preamble, FCS and gap. The control socket has more counters of each card: rx-packets
    and tx-packets are the same numbers, host-packets are copies that reached the
    guest's memory, interrupts those that the card raised, whether somebody took them or
    not.

    The exit status is 1 if a capture could not be written, or if frames are left that a
    wire has taken and not delivered.

    The control socket, /run/snabb-py/PID/control, takes JSON lines; one pulls the cable
    of a card (card0, card1, ... in order of the sockets), or plugs it in with true:

    \b
      {"verb": "cable", "card": "card0", "plugged": false}

    \b
    Examples:
      snabb-py sim82599 nic.sock --wire tap:tap0
      snabb-py sim82599 a.sock b.sock --wire cable
      snabb-py sim82599 nic.sock --wire gen,rate=10kpps,size=1518 --json
    """
    if "" in sockets:
        raise click.UsageError("SOCKET: the path is empty")
    for path, n in Counter(Path(word).resolve() for word in sockets).items():
        if n > 1:
            raise click.UsageError(
                f'SOCKET: "{path}" is there twice; each card has its own'
            )
    if len(sockets) > MOST_CARDS:
        raise click.UsageError(f"{MOST_CARDS} cards at most")
    words = wires_of(wires, len(sockets))
    first = MAC_PREFIX + b"\x01" if mac is None else parse_mac(mac)
    macs = count_macs(first, len(sockets))
    texts = " ".join(words)
    reporter = CardReporter(
        "sim82599",
        as_json=as_json,
        is_stdout_taken="/dev/stdout" in texts or "/dev/fd/1" in texts,
    )
    try:
        with Ending() as ending, contextlib.ExitStack() as stack:
            ports = []
            for i, (socket, word) in enumerate(zip(sockets, words, strict=True)):
                card = stack.enter_context(Card(mac=macs[i]))
                server = Server(card, Path(socket), log=reporter.log)
                stack.callback(server.close)
                ports.append(Port(f"card{i}", card, server, word))
            config = Config()
            join(config, ports)
            engine = stack.enter_context(
                Engine(
                    cpus=[cpu],
                    busy=busy,
                    large_packets=1024 if any(p.needs_large for p in ports) else 0,
                    program="sim82599",
                    log=reporter.log,
                    **memory_settings(huge_pages),
                )
            )
            ending.of(engine)
            summary = run(
                engine, config, ports, reporter, duration=duration, interval=interval
            )
            apps = [engine.apps[n].instance for p in ports for n in p.wire_apps]
        failures = [printable(app.failure) for app in apps if app.failure]
        summary = {"program": "sim82599", **summary, "failures": failures}
        reporter.finish(summary)
        lost = [reason for card in summary["cards"] for reason in card["drops"]]
        if failures or any(r.endswith((UNFINISHED, "write-error")) for r in lost):
            sys.exit(1)
    finally:
        reporter.stop()
