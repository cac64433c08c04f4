"""`snabb-py nfv`: virtual machines on a physical card."""

import dataclasses
import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from snabb_py.cli.interfaces import UNFINISHED, engine_settings
from snabb_py.cli.nfv_network import SWITCH_PORTS, Trunk
from snabb_py.cli.nfv_qemu import libvirt_xml, qemu_arguments
from snabb_py.cli.nfv_report import NfvMeter, NfvReporter
from snabb_py.cli.nfv_run import (
    Benchmark,
    Sockets,
    Traffic,
    group_number,
)
from snabb_py.cli.options import (
    F,
    card_options,
    complete_interface,
    place_workers,
    workers_options,
)
from snabb_py.cli.run import Ending
from snabb_py.cli.terminal import complain, printable
from snabb_py.cli.usage import PATH, Group, Number, Whole
from snabb_py.engine.config_file import signature_of
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from snabb_py.virtio.nfv_config import PortConfig, read
from snabb_py.virtio.nfv_keys import KEYS

#: Packets for a port: descriptors, links, and what its guest leaves lying; of many
#: ports, not all do that at once.
PORT_PACKETS, FURTHER_PACKETS = 4096, 2048
#: Ports that there is memory for at least, as some may come later, and for in full.
LEAST_PORTS, FULL_PORTS = 4, 8
LARGE_PACKETS = 1024
#: Packets for each further worker: what it keeps for itself, and on interlinks.
WORKER_PACKETS, WORKER_LARGE_PACKETS = 4096, 512
#: Of memory, as QEMU has it.
SIZE = re.compile(r"[0-9]+(\.[0-9]+)?[bBkKmMgGtT]?")
#: Seconds between two reports.
LEAST_INTERVAL = 0.001


@click.group("nfv", cls=Group)
def program() -> None:
    """Join virtual machines to a physical card, each with a port of its own.

    A config says which virtual machines there are: their addresses and VLANs, what may
    pass to and from them, and how much of it. Its keys are Snabb NFV's; it is Lua, as
    Snabb has it (read as data, never run), TOML or JSON.

    \b
    Keys of a port ("to" and "from" are seen from the virtual machine)
      port_id                  its name; the only key that must be there
      mac_address              its address, or a list; of several ports each has one
      vlan                     its frames carry this tag on the wire, and none here
      trunk                    VLANs that it has with their tags: [1, 7, "100-199"];
                               needs mac_address
      ingress_filter           what may pass to it, as tcpdump has it
      egress_filter            what may pass from it
      stateful_filter          true: replies to what has passed pass as well
      rx_police, tx_police     Gb/s to it, from it, at most
      rx_police_burst, ...     bytes that may pass at once (250 ms of the limit)
      queues                   pairs that it may use (1)
      mtu                      that it is told
      mirror                   a capture file (pcapng) of all to it and from it; it is
                               begun anew when the port comes or its mirror changes
      server                   true: we make its socket, false: it does
      disable_mrg_rxbuf, disable_indirect_desc
                               features that it is not offered

    \b
    Examples:
      snabb-py nfv check examples/nfv.toml
      snabb-py nfv traffic 0000:01:00.0 examples/nfv.toml /run/vm-%s.sock
      snabb-py nfv qemu examples/nfv.toml /run/vm-%s.sock A
    """


# -- check ---------------------------------------------------------------------


def values_of(port: PortConfig) -> dict[str, Any]:
    """Return a port by its keys."""
    return {
        name: getattr(port, key.field)
        for name, key in KEYS.items()
        if not key.replacement
    }


def port_lines(port: PortConfig) -> list[str]:
    """Return a port as text: what it says that is not so by default."""
    defaults = {f.name: f.default for f in dataclasses.fields(port)}
    lines = [port.port_id]
    for name, key in KEYS.items():
        value = getattr(port, key.field)
        if key.replacement or name == "port_id" or value == defaults[key.field]:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        lines.append(f"  {name:22} {text.lower() if value is True else text}")
    return lines


@program.command("check")
@click.argument("conf", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="All keys of all ports, as JSON.")
def check(*, conf: Path, as_json: bool) -> None:
    """Read the config CONF and judge it, and show its ports.

    Exit status 2 and one line, FILE:LINE: KEY: what is wrong, if something is. What is
    odd and can be lived with is said on stderr.

    \b
    Examples:
      snabb-py nfv check examples/nfv.toml
      snabb-py nfv check --json ports.lua
    """
    config = read(conf, complain)
    if as_json:
        print(json.dumps({"ports": [values_of(port) for port in config.ports]}))
        return
    for port in config.ports:
        print("\n".join(port_lines(port)))


# -- qemu ----------------------------------------------------------------------


@program.command("qemu")
@click.argument("conf", type=PATH)
@click.argument("sock")
@click.argument("port")
@click.option("--mgmt", is_flag=True, help="A card of user networking beside it.")
@click.option("--libvirt", is_flag=True, help="Elements of a domain's XML instead.")
@click.option("--client", is_flag=True, help="As of `nfv traffic`.")
@click.option(
    "--memory",
    default="1G",
    show_default=True,
    metavar="SIZE",
    help="Of the virtual machine, as QEMU has it.",
)
def qemu(  # noqa: PLR0913 - the options of a program
    *,
    conf: Path,
    sock: str,
    port: str,
    mgmt: bool,
    libvirt: bool,
    client: bool,
    memory: str,
) -> None:
    """Print QEMU's arguments for the virtual machine of a PORT of CONF.

    They are ready to paste: memory that is shared, since we read and write it
    ourselves, the socket, and the card with what the port's keys say of it. SOCK is as
    for `nfv traffic`. Disk, kernel, CPUs and -accel kvm are up to you. The mtu key
    reaches the guest this way only. QEMU before 9.2 wants reconnect=1 instead of
    reconnect-ms=1000.

    \b
    Examples:
      snabb-py nfv qemu examples/nfv.toml /run/vm-%s.sock A
      snabb-py nfv qemu examples/nfv.toml /run/vm-%s.sock A --mgmt --libvirt
    """
    config = read(conf, complain)
    by_id = {p.port_id: p for p in config.ports}
    if port not in by_id:
        known = ", ".join(by_id) or "none"
        raise ConfigError(f'{conf}: there is no port "{port}"; there are {known}')
    path = Sockets(sock).paths(config)[port]
    if not path.isprintable():
        raise ConfigError(f"SOCK: {path!r} has characters that cannot be printed")
    if not SIZE.fullmatch(memory):
        raise ConfigError(f'--memory: "{memory}" is no size such as 512M or 4G')
    server = by_id[port].server
    is_server = not client if server is None else server
    if libvirt:
        elements = libvirt_xml(by_id[port], path, is_server=is_server, has_mgmt=mgmt)
        print("\n".join(elements))
        return
    groups = qemu_arguments(
        by_id[port], path, is_server=is_server, memory=memory, has_mgmt=mgmt
    )
    print(" \\\n".join(shlex.join(group) for group in groups))


# -- traffic -------------------------------------------------------------------


def check_interval(seconds: float) -> float:
    """Return an interval that is none, or not too short to do anything else in."""
    if 0 < seconds < LEAST_INTERVAL:
        raise click.BadParameter(
            f'"{seconds:g}" is neither 0 nor a number from {LEAST_INTERVAL} on'
        )
    return seconds


def report_every(
    letter: str, name: str, default: float, text: str, *aliases: str
) -> Callable[[F], F]:
    """Return the option of a report's interval."""
    return click.option(
        f"-{letter}",
        f"--{name}-report-interval",
        *aliases,
        f"{name}_interval",
        type=Number(0, 86400),
        callback=lambda _ctx, _param, value: check_interval(value),
        default=default,
        show_default=True,
        metavar="S",
        help=f"Seconds between two reports of {text}; 0: none.",
    )


@program.command(
    "traffic", epilog="Ctrl-C, SIGTERM and SIGHUP end it with the summary."
)
@click.argument("pci", shell_complete=complete_interface)
@click.argument("conf", type=PATH)
@click.argument("sock")
@report_every("k", "link", 60, "each link's packets and losses")
@report_every("l", "load", 1, "each port's packets and rates", "--interval")
@report_every("D", "debug", 600, "all counters")
@click.option(
    "-B",
    "--benchmark",
    type=Whole(1),
    metavar="N",
    help="End when the virtual machines have sent N packets more; say how fast.",
)
@click.option(
    "--client", is_flag=True, help="Connect to the sockets instead of listening."
)
@click.option(
    "--group",
    metavar="NAME|GID",
    help="Group that may connect to the sockets beside their owner.",
)
@card_options
@click.option(
    "--duration",
    type=Number(0, 1e9),
    metavar="S",
    help="Seconds to run; without it, until it is ended.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object to the line; the last is the summary.",
)
@workers_options
def traffic(  # noqa: PLR0913 - the options of a program
    *,
    pci: str,
    conf: Path,
    sock: str,
    link_interval: float,
    load_interval: float,
    debug_interval: float,
    benchmark: int | None,
    client: bool,
    group: str | None,
    ring_size: int | None,
    sim_cpu: int | None,
    duration: float | None,
    as_json: bool,
    workers: int | None,
    cpu_list: str | None,
    busy: bool,
    huge_pages: str,
) -> None:
    """Join the virtual machines of CONF to PCI, through sockets at SOCK.

    \b
    PCI is one of
      0000:01:00.0[,OPTION]... an Intel 82599: each port has a pool of it (VMDq), which
                               gets what is for its addresses in its VLAN, and which may
                               send from no others. A port that is alone and has no
                               mac_address has the whole card.
      sim[,OPTION]...          a software 82599. Its wire is a tap, nfv0 or the next one
                               that is free; wire=tap:NAME, raw:IFNAME, null, sink,
                               pcap:F[,F], or gen, which sends to the ports
      raw:IFNAME, xdp:IFNAME, tap:NAME, null
                               these have no pools: a bridge in software stands for them
    Options of cards: ring=N, mtu=N; of sim also those of `snabb-py forward --help`.

    A card has 64 pools, 127 addresses and 64 VLANs; where ports need more, up to 127 of
    them, a bridge in software takes the place of the pools.

    SOCK is the path of the sockets; %s in it stands for the port_id, and may be left
    out if there is just one port. We listen there, and QEMU connects; with --client
    QEMU listens (server=on), as Snabb NFV has it, and we connect, again and again. The
    port's key `server` says it for one. A virtual machine may come, reboot and go.
    Sockets of ours have the mode 0660: their owner may connect, and their group, which
    --group sets.

    \b
    Each port is a chain of apps, of which those are there that its keys ask for:
      VM -> PORT_Virtio -> _Mirror -> _TxLimit -> _Filter_out -> PORT_NIC (or Switch)
      VM <- PORT_Virtio <- _Mirror <- _Filter_in <- _RxLimit <- PORT_NIC (or Switch)

    CONF is looked at once a second. A change is taken over while all runs; ports that
    it does not concern lose nothing. If something in it is wrong, a line says where and
    what, and all runs on as it was. `{"verb": "reload"}` at the control socket does it
    at once, and answers what has changed or why it cannot be.

    With --workers N, N threads share the ports out: a port, its pool of the card too,
    is one's for as long as it is in CONF, and a new one goes to the one that has the
    fewest. A bridge is the first one's. Captures of `mirror` and a software card have
    threads of their own.

    Packets and bytes "to" and "from" are those that the virtual machine received and
    sent; drops are by app and reason, in a line those since the last one, else all.
    Gbps are on the wire: preamble, FCS and gap count, those of rx_police and tx_police
    too. Those of --benchmark are of frames alone.

    \b
    Examples:
      snabb-py nfv traffic 0000:01:00.0 examples/nfv.toml /run/vm-%s.sock --cpu 2 -b
      snabb-py nfv traffic sim examples/nfv.toml vm-%s.sock
      snabb-py nfv traffic 0000:01:00.0 examples/nfv.toml /run/vm-%s.sock --cpu 2,4-5
      snabb-py nfv traffic sim,wire=gen,rate=1Mpps examples/nfv.toml vm-%s.sock
      snabb-py nfv traffic raw:eth1 ports.lua vm-%s.sock --client -k 0 -D 0
    """
    cpus = place_workers(workers, cpu_list)
    signature = signature_of(conf)
    config = read(conf, complain)
    if len(config.ports) > SWITCH_PORTS:
        raise ConfigError(f"{conf}: {len(config.ports)} ports, {SWITCH_PORTS} at most")
    if group is not None and client and not any(port.server for port in config.ports):
        raise ConfigError("--group: with --client the sockets are not ours")
    sockets = Sockets(sock, is_server=not client, group=group_number(group))
    sockets.paths(config)
    reporter = NfvReporter(
        "nfv traffic",
        as_json=as_json,
        is_stdout_taken="/dev/stdout" in pci or "/dev/fd/1" in pci,
    )
    try:
        with Ending() as ending:
            trunk = Trunk(pci, config.ports, ring_size, nworkers=len(cpus))
            with (
                engine_settings(
                    [trunk.interface],
                    cpus=cpus,
                    sim_cpu=sim_cpu,
                    huge_pages=huge_pages,
                    log=reporter.log,
                ) as settings,
                Engine(
                    busy=busy,
                    program="nfv",
                    log=reporter.log,
                    **_with_memory(settings, len(config.ports), len(cpus)),
                ) as engine,
            ):
                ending.of(engine)
                meter = NfvMeter(engine, time.monotonic())
                running = Traffic(
                    engine, trunk, conf, sockets, meter=meter, log=reporter.log
                )
                engine.notes += trunk.notes
                intervals = (
                    (load_interval, lambda: reporter.show(meter.look())),
                    (link_interval, lambda: reporter.tell(meter.links())),
                    (debug_interval, lambda: reporter.tell(meter.debug())),
                )
                for interval, report in intervals:
                    if interval:
                        engine.timers.at(meter.start + interval, report, interval)
                running.start(config, signature)
                for chain in running.network.chains.values():
                    reporter.log(f'port "{chain.port.port_id}": {chain.path}')
                summary = run(running, duration=duration, benchmark=benchmark)
                apps = [app.instance for app in engine.apps.values()]
        failures = [printable(app.failure) for app in apps if app.failure]
        reporter.finish({"program": "nfv traffic", **summary, "failures": failures})
        if failures or any(UNFINISHED in reason for reason in summary["drops"]):
            sys.exit(1)
    finally:
        reporter.stop()


def _with_memory(
    settings: dict[str, Any], nports: int, nworkers: int
) -> dict[str, Any]:
    """Return an engine's settings with packets for these ports."""
    nports = max(nports, LEAST_PORTS)
    nfull = min(nports, FULL_PORTS)
    more = PORT_PACKETS * nfull + FURTHER_PACKETS * (nports - nfull)
    return settings | {
        "packets": settings["packets"] + more + WORKER_PACKETS * (nworkers - 1),
        "large_packets": LARGE_PACKETS + WORKER_LARGE_PACKETS * (nworkers - 1),
    }


def run(
    running: Traffic, *, duration: float | None, benchmark: int | None
) -> dict[str, Any]:
    """Run to the end; return the summary."""
    engine = running.engine
    bench = Benchmark(running, benchmark, time.monotonic) if benchmark else None
    engine.main(duration=duration, done=bench.is_done if bench else None)
    ended = time.monotonic()
    engine.drain()
    summary = running.meter.summary(ended)
    return summary | ({"benchmark": bench.result()} if bench else {})
