"""`snabb-py bench vhost...`: a vhost-user port by itself, its guest DPDK or ours."""

import time
from pathlib import Path
from typing import Any

import click

from snabb_py._native import lib
from snabb_py.apps.basic import Forward, Join, Sink, Source
from snabb_py.apps.traffic import Checker, Generator, udp_frames
from snabb_py.cli.bench_report import bench_options, report
from snabb_py.cli.card_wires import parse_rate
from snabb_py.cli.terminal import complain
from snabb_py.cli.usage import OneOf, Whole
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.histogram import percentile
from snabb_py.virtio.frontend import Frontend, Guest
from snabb_py.virtio.net_device import VhostUser

#: Seconds until a guest whose rings are there looks at them.
SETTLING = 1.0


def guest_options(command: Any) -> Any:
    """Add who the guest is: --client, --own-guest."""
    for option in (
        click.option(
            "--own-guest", is_flag=True, help="Be the guest, too, on a second CPU."
        ),
        click.option("--client", is_flag=True, help="Connect; the guest listens."),
    ):
        command = option(command)
    return command


def say_waiting(socket: str) -> None:
    """Say that a guest may come."""
    complain(f"{socket}: waiting for a guest")


def start_guest(socket: str, *, client: bool) -> Guest:
    """Return a guest of ours, its driver ready."""
    guest = Guest(Path(socket), is_server=client)
    guest.start()
    return guest


def add_guest(config: Config, guest: Any, direction: str, size: int) -> None:
    """Add what a guest of ours does, on the second worker."""
    config.app("guest", Frontend, guest=guest, worker=1)
    if direction == "rx":
        config.app("guest-sink", Sink, worker=1)
        config.link("guest.tx -> guest-sink.rx")
        return
    count = {} if direction == "tx" else {"count": lib.LINK_CAPACITY // 4}
    config.app("guest-source", Source, size=size, worker=1, **count)
    config.app("guest-join", Join, worker=1)
    config.link("guest-source.tx -> guest-join.rx1")
    config.link("guest-join.tx -> guest.rx")
    if direction == "loop":
        config.link("guest.tx -> guest-join.rx2")


@click.command("vhost")
@click.argument("direction", type=OneOf(["rx", "tx", "loop"]))
@click.argument("socket", type=click.Path(readable=False))
@bench_options("1e8")
@guest_options
@click.option(
    "--size",
    type=Whole(64, 1518),
    default=64,
    show_default=True,
    metavar="BYTES",
    help="Of each frame, with FCS.",
)
def vhost(  # noqa: PLR0913 - options
    *,
    direction: str,
    socket: str,
    n: int,
    cpu: int | None,
    as_json: bool,
    client: bool,
    own_guest: bool,
    size: int,
) -> None:
    """Serve a guest at SOCKET: N packets to it, from it, or back to it.

    The guest is to receive (rx), to send (tx) or to return packets (loop); it is waited
    for, and the clock starts at the first packet. For DPDK's testpmd as the guest:

    \b
      dpdk-testpmd --no-pci --no-huge -m 64 --vdev=net_virtio_user0,path=SOCKET \\
          -- --total-num-mbufs=2048 --forward-mode=rxonly|txonly|io --tx-first \\
          --stats-period 1
    """
    config = Config()
    config.app("vm", VhostUser, path=socket, server=not client, worker=0)
    if direction == "rx":
        config.app("source", Source, size=size - 4, worker=0)
        config.link("source.tx -> vm.rx")
    elif direction == "tx":
        config.app("sink", Sink, worker=0)
        config.link("vm.tx -> sink.rx")
    else:
        config.app("forward", Forward, worker=0)
        config.link("vm.tx -> forward.rx")
        config.link("forward.tx -> vm.rx")
    counter = "tx-packets" if direction == "tx" else "rx-packets"
    workers = 2 if own_guest else 1
    with Engine(
        cpus=[cpu], workers=workers, busy=True, large_packets=256, log=complain
    ) as engine:
        engine.commit(config)
        say_waiting(socket)
        guest = start_guest(socket, client=client) if own_guest else None
        if guest:
            add_guest(config, guest, direction, size - 4)
            engine.commit(config)
        counters = engine.apps["vm"].row
        assert counters  # noqa: S101 - the class has some
        while not counters[counter]:
            engine.main(duration=0.01)
        packets, start = counters[counter], time.monotonic()
        while counters[counter] < packets + n:
            time.sleep(0.0005)
        seconds = time.monotonic() - start
        packets = counters[counter] - packets
    report(
        "vhost",
        packets,
        seconds,
        as_json=as_json,
        direction=direction,
        size=size,
        ns_per_packet=round(seconds / packets * 1e9, 2),
    )


@click.command("vhost-latency")
@click.argument("socket", type=click.Path(readable=False))
@bench_options("1e5")
@click.option(
    "--rate",
    default="10kpps",
    show_default=True,
    metavar="R",
    help="Packets sent, as pps, kpps, Mpps or Gbps on the wire.",
)
@click.option("--sleep", is_flag=True, help="Sleep when there is nothing to do.")
@guest_options
def vhost_latency(  # noqa: PLR0913 - options
    *,
    socket: str,
    n: int,
    cpu: int | None,
    as_json: bool,
    rate: str,
    sleep: bool,
    client: bool,
    own_guest: bool,
) -> None:
    """Send N packets to a guest at SOCKET that returns them; say how long they take.

    From the breath in which a packet is made to that in which it is back: twice
    through the port, once through the guest. Frames are of 70 bytes with FCS. The guest
    is started as for `bench vhost`, to return packets (io, without --tx-first).
    """
    frames = udp_frames(timed=True)
    try:
        speed = parse_rate(rate, frames)
    except ValueError as error:
        raise click.UsageError(f"--{error}") from None
    config = Config()
    config.app("vm", VhostUser, path=socket, server=not client, worker=0)
    config.app("checker", Checker, worker=0)
    config.link("vm.tx -> checker.rx")
    workers = 2 if own_guest else 1
    with Engine(cpus=[cpu], workers=workers, busy=not sleep, log=complain) as engine:
        engine.commit(config)
        say_waiting(socket)
        if own_guest:
            guest = start_guest(socket, client=client)
            config.app("guest", Frontend, guest=guest, worker=1)
            config.app("guest-forward", Forward, worker=1)
            config.link("guest.tx -> guest-forward.rx")
            config.link("guest-forward.tx -> guest.rx")
        vm, checker = (engine.apps[name].instance for name in ("vm", "checker"))
        assert isinstance(vm, VhostUser)  # noqa: S101 - so says the config
        assert isinstance(checker, Checker)  # noqa: S101
        assert vm.port  # noqa: S101 - it is open
        while not vm.port.device.has_guest:
            engine.main(duration=0.01)
        engine.main(duration=SETTLING)
        config.app("generator", Generator, frames=frames, count=n, worker=0, **speed)
        config.link("generator.tx -> vm.rx")
        engine.commit(config)
        generator = engine.apps["generator"].instance
        assert isinstance(generator, Generator)  # noqa: S101
        start = time.monotonic()
        engine.main(done=lambda: generator.is_done)
        seconds = time.monotonic() - start
        engine.main(duration=SETTLING / 10)
        counts, back = checker.latency, sum(checker.latency)
        missed = sum(engine.apps["generator"].counters.values())
    report(
        "vhost-latency",
        n,
        seconds,
        as_json=as_json,
        rate=rate,
        median_us=round(percentile(counts, 0.5) / 1000, 1),
        p999_us=round(percentile(counts, 0.999) / 1000, 1),
        lost=n - back,
        not_sent_in_time=missed,
    )
