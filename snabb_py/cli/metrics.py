"""`snabb-py metrics`: what instances count, as Prometheus has it."""

import contextlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from snabb_py.cli.readings import Watch
from snabb_py.cli.stop import Stop
from snabb_py.cli.terminal import complain
from snabb_py.cli.usage import PATH, Number
from snabb_py.errors import WRITE_HINTS, ConfigError, DeviceError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

ADDRESS = "127.0.0.1:9105"


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT", "[IPv6]:PORT".

    Raises:
        ConfigError: the text has another form.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdecimal() or int(port) >= 2**16:
        raise ConfigError(f'--listen: "{text}" is no HOST:PORT such as {ADDRESS}')
    return host, int(port)


def serve(registry: "CollectorRegistry", address: str) -> None:
    """Serve metrics over HTTP until the end.

    Raises:
        ConfigError: the address is none of this machine's.
        DeviceError: its port cannot be had.
    """
    from snabb_py.cli.metrics_server import PAGE, Server, application

    with Server(address, *parse_address(address), application(registry)) as server:
        host = (
            f"[{server.server_name}]"
            if ":" in server.server_name
            else server.server_name
        )
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            complain(f"metrics at http://{host}:{server.server_port}{PAGE}")
            with Stop() as stop:
                while stop.wait(3600):
                    pass
        finally:
            server.shutdown()
            thread.join()


def write(registry: "CollectorRegistry", path: Path) -> None:
    """Write metrics to a file: whoever reads it has the old ones or the new, whole.

    Raises:
        ConfigError: it is something else than a file, a device say.
        DeviceError: it cannot be written; it is then as it was.
    """
    from prometheus_client import generate_latest

    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is no regular file")

    data = generate_latest(registry)
    with contextlib.ExitStack() as undo:
        try:
            fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            undo.callback(os.unlink, name)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                os.fchmod(fd, 0o644)  # who collects it is somebody else
            Path(name).replace(path)
        except OSError as error:
            number = error.errno or 0
            hint = WRITE_HINTS.get(number, "")
            raise DeviceError(f"write {path}", number, hint) from None
        undo.pop_all()


def write_again(registry: "CollectorRegistry", path: Path, interval: float) -> None:
    """Write metrics to a file every so many seconds, until the end."""
    write(registry, path)
    with Stop() as stop:
        while stop.wait(interval):
            try:
                write(registry, path)
            except DeviceError as error:  # a disk that is full may have room again
                complain(str(error))


@click.command("metrics", epilog="Ctrl-C ends it with exit status 0.")
@click.option(
    "--listen",
    default=ADDRESS,
    show_default=True,
    metavar="HOST:PORT",
    help="Serve them there, over HTTP; nobody is asked for a password.",
)
@click.option(
    "--file",
    "path",
    type=PATH,
    metavar="FILE",
    help="Write them to a file instead, for node_exporter's textfile collector.",
)
@click.option(
    "--interval",
    type=Number(0.1, 86400),
    metavar="S",
    help="Write the file again every so many seconds; without it, once.",
)
def program(*, listen: str, path: Path | None, interval: float | None) -> None:
    """Export what the instances of snabb-py that run here count, for Prometheus.

    Every counter of every app, link and worker is there, labelled with the process, the
    program, and whose it is; a counter's own name is the label "counter". Packets lost
    are snabb_app_dropped_packets_total, by app and reason, and
    snabb_link_dropped_packets_total. How busy a worker is:
    rate(snabb_worker_busy_seconds_total[1m]). Watching costs the workers nothing.

    \b
    Examples:
      snabb-py metrics
      snabb-py metrics --listen '[::]:9105'
      snabb-py metrics --file /var/lib/node_exporter/snabb.prom --interval 15
    """
    from prometheus_client import CollectorRegistry

    from snabb_py.cli.metrics_families import InstancesCollector

    if interval is not None and path is None:
        raise click.UsageError("--interval is for --file: whoever scrapes has its own")
    registry = CollectorRegistry(auto_describe=False)
    watch = Watch(None, complain)
    with contextlib.closing(watch):
        registry.register(cast("Collector", InstancesCollector(watch, complain)))
        if path is None:
            serve(registry, listen)
        elif interval is None:
            write(registry, path)
        else:
            write_again(registry, path, interval)
