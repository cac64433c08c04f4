"""`snabb-py lwaftr run`: an lwAFTR between two interfaces, or on one."""

import functools
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from snabb_py.cli.forward import has_end, is_done
from snabb_py.cli.interfaces import (
    PCI_ADDRESS,
    UNFINISHED,
    check_kind,
    engine_settings,
    kernel_name,
)
from snabb_py.cli.lwaftr_config import Source
from snabb_py.cli.lwaftr_ends import Said
from snabb_py.cli.lwaftr_network import APP, build
from snabb_py.cli.lwaftr_options import COMPAT
from snabb_py.cli.lwaftr_reload import Running
from snabb_py.cli.options import (
    F,
    card_options,
    complete_interface,
    place_workers,
    report_options,
    workers_options,
)
from snabb_py.cli.run import Ending, Reporter, run
from snabb_py.cli.terminal import printable
from snabb_py.cli.usage import PATH
from snabb_py.engine.engine import Engine

#: Packets for each further worker: what its freelist keeps, and what is on its links;
#: when all are full the pool may run dry, and what comes waits, or is lost there.
WORKER_PACKETS = 4096

interface_option = functools.partial(
    click.option, metavar="IF", shell_complete=complete_interface
)


def end_options(command: F) -> F:
    """Add who we are on each side: --v4-address and so on."""
    for side, kind in (("v6", "IPv6"), ("v4", "IPv4")):
        for name, metavar, text in (
            ("next-hop", "ADDRESS|MAC", "Whom to send to there."),
            ("mac", "MAC", "Our MAC address there."),
            ("address", "ADDRESS", f"Our {kind} address, without --conf."),
        ):
            command = click.option(
                f"--{side}-{name}", default="", metavar=metavar, help=text
            )(command)
    return command


@click.command(
    "run",
    epilog="Ctrl-C and SIGTERM end it with the summary and exit status 0; SIGHUP has "
    "it read its files again.",
)
@click.option("--bt", type=PATH, metavar="TABLE", help="Binding table, the old format.")
@click.option("--conf", type=PATH, metavar="FILE", help="Config, either format.")
@interface_option("--v4", help="Interface to the internet.")
@interface_option("--v6", help="Interface to the B4s.")
@interface_option("--on-a-stick", "stick", help="One interface for both.")
@end_options
@COMPAT
@card_options
@report_options
@workers_options
def program(  # noqa: PLR0913 - the options of a program
    *,
    bt: Path | None,
    conf: Path | None,
    v4: str | None,
    v6: str | None,
    stick: str | None,
    v4_address: str,
    v4_mac: str,
    v4_next_hop: str,
    v6_address: str,
    v6_mac: str,
    v6_next_hop: str,
    compat: str | None,
    ring_size: int | None,
    sim_cpu: int | None,
    duration: float | None,
    interval: float,
    as_json: bool,
    workers: int | None,
    cpu_list: str | None,
    busy: bool,
    huge_pages: str,
) -> None:
    """Carry packets between the internet and B4s.

    Interfaces are what they are for `snabb-py forward`: a card's PCI address, sim,
    raw:IFNAME, xdp:IFNAME, tap:NAME, pcap:IN[,OUT], null. Without any there are two
    software cards, and each one's wire carries packets made from the binding table:
    those of the internet on one, those of the B4s on the other. `sim,size=imix` and
    `sim,rate=1Mpps` are such cards, too; `sim,wire=tap:tap0` is another.

    A config has addresses and next hops; of its queues the first one counts. Without
    one they are options, and what is not given is asked of the kernel for raw:IFNAME
    and xdp:IFNAME (address, MAC address, gateway of the default route, MTU) and made up
    for a sim.

    The files are watched. What changes is taken over while all runs, at once and whole
    (put a new file in its place with `mv`); what did not change loses nothing, and next
    hops and fragments that wait stay. A file that is wrong is refused with line and
    column, and all runs on as it was.

    The kernel goes on with what it does on raw:IFNAME: where it answers besides us, or
    forwards, a line says so.

    With --workers N, N threads share the packets out, those of one softwire, too: what
    goes between two IPv4 addresses stays in order. Their counters are summed. The
    limits of ICMP errors are shared out among them, too: each sends its part.

    Drops are shown by the names of counters. Offered, forwarded, Mpps and Gbps are
    without what the lwAFTR says for itself, or is told: ARP, neighbour discovery,
    pings of it, ICMP errors that it sends. Lost is what came and was dropped, each
    packet and fragment once; drops have more than that: errors that were not sent, why
    a reassembly was given up, and that ICMP for nobody gets no answer (RFC 7596, 8.1).

    \b
    Examples:
      snabb-py lwaftr run --bt examples/binding.table
      snabb-py lwaftr run --bt examples/binding.table --v4 sim,size=imix --v6 sim
      snabb-py lwaftr run --conf examples/lwaftr.conf --v4 raw:eth0 --v6 raw:eth1
      snabb-py lwaftr run --conf lwaftr.conf --on-a-stick 0000:01:00.0 --cpu 2
      snabb-py lwaftr run --bt examples/binding.table --workers 2
    """
    cpus = place_workers(workers, cpu_list)
    words = interfaces(v4, v6, stick)
    for word in words.values():
        check_kind(word)
    said = (
        Said(v4_address, v4_mac, v4_next_hop),
        Said(v6_address, v6_mac, v6_next_hop),
    )
    ports, is_compat = list(words.values()), compat is not None
    running = Running(Source(conf, bt, (ports[0], ports[-1]), said, is_compat))
    network = build(
        running.lw, words, ring_size=ring_size, compat=is_compat, nworkers=len(cpus)
    )
    ends, directions = list(network.ends.values()), list(network.directions)
    reporter = Reporter("lwaftr", as_json=as_json)
    try:
        with (
            Ending(hang_up=running.watch.demand) as ending,
            engine_settings(
                ends,
                cpus=cpus,
                sim_cpu=sim_cpu,
                huge_pages=huge_pages,
                log=reporter.log,
            ) as settings,
            Engine(
                busy=busy,
                program=APP,
                log=reporter.log,
                **with_packets(settings, len(cpus)),
            ) as engine,
        ):
            ending.of(engine)
            if v4 is None and stick is None:
                engine.notes.append(
                    "no interfaces given: two software cards stand for them"
                )
            running.start(engine, network, reporter.log)
            summary = run(
                engine,
                network.config,
                directions,
                reporter,
                duration=duration,
                interval=interval,
                done=(lambda: is_done(engine, [*directions]))
                if has_end(network.config, [*directions])
                else None,
            )
            counters: Counter[str] = Counter()
            for app in network.lwaftrs:
                counters.update(engine.apps[app].counters)
            apps = [running_app.instance for running_app in engine.apps.values()]
        failures = [printable(app.failure) for app in apps if app.failure]
        more = {"softwires": len(running.lw.binding_table), "counters": +counters}
        reporter.finish({"program": APP, **summary, **more, "failures": failures})
        reasons = [reason for d in summary["directions"] for reason in d["drops"]]
        if failures or any(r.endswith((UNFINISHED, "write-error")) for r in reasons):
            sys.exit(1)
    finally:
        reporter.stop()


def with_packets(settings: dict[str, Any], nworkers: int) -> dict[str, Any]:
    """Return an engine's settings with packets for so many workers."""
    packets = settings["packets"] + WORKER_PACKETS * (nworkers - 1)
    return settings | {"packets": packets}


def interfaces(v4: str | None, v6: str | None, stick: str | None) -> dict[str, str]:
    """Return the interface of each port of the lwAFTR.

    Raises:
        UsageError: they do not go together.
    """
    if stick is not None:
        if v4 is not None or v6 is not None:
            raise click.UsageError("--on-a-stick is both: not with --v4 or --v6")
        return {"stick": stick}
    if (v4 is None) != (v6 is None):
        raise click.UsageError("give both --v4 and --v6, or --on-a-stick, or none")
    words = {"v4": "sim" if v4 is None else v4, "v6": "sim" if v6 is None else v6}
    if v4 == v6 and (kernel_name(words["v4"]) or PCI_ADDRESS.fullmatch(words["v4"])):
        raise click.UsageError(f"one interface for both: --on-a-stick {v4}")
    return words
