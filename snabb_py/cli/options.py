"""Options that programs share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from snabb_py.cli.interfaces import RING_SIZE, RING_SIZES
from snabb_py.cli.terminal import complain
from snabb_py.cli.usage import Number, PowerOfTwo, Whole
from snabb_py.engine import pci
from snabb_py.engine.worker import check_cpu, parse_cpus
from snabb_py.errors import ConfigError
from snabb_py.nic.intel82599_ids import is_supported

MOST_WORKERS = 64


F = TypeVar("F", bound=Callable[..., Any])


def complete_interface(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[str]:
    """Return the interfaces that there are and whose words begin so."""
    names = sorted(path.parent.name for path in Path("/sys/class/net").glob("*/mtu"))
    cards = [d.address for d in pci.devices() if is_supported(d.vendor, d.device)]
    kernel = (f"{kind}:{name}" for kind in ("raw", "xdp") for name in names)
    words = ["null", "sim", *kernel, *cards]
    return [word for word in words if word.startswith(incomplete)]


BUSY = click.option(
    "-b", "--busy", is_flag=True, help="Never sleep: poll all the time."
)


HUGE_PAGES = click.option(
    "--huge-pages",
    type=click.Choice(["auto", "require", "never"]),
    default="auto",
    show_default=True,
    help="Packets lie on huge pages: where they can be had; or fail; never.",
)


def engine_options(command: F) -> F:
    """Add how the engine runs: --cpu, -b/--busy, --huge-pages."""
    cpu = click.option(
        "--cpu", type=Whole(0), metavar="N", help="Pin the worker to this CPU."
    )
    return cpu(BUSY(HUGE_PAGES(command)))


def card_options(command: F) -> F:
    """Add what cards are given: --ring-size, --sim-cpu."""
    ring_size = click.option(
        "--ring-size",
        type=PowerOfTwo(*RING_SIZES),
        metavar="N",
        help=f"Descriptors of each ring of a card ({RING_SIZE}), frames that the "
        "kernel holds for a raw:IFNAME (512); a power of two.",
    )
    sim_cpu = click.option(
        "--sim-cpu",
        type=Whole(0),
        metavar="N",
        help="Pin the worker of the software cards to this CPU.",
    )
    return ring_size(sim_cpu(command))


def workers_options(command: F) -> F:
    """Add how an engine of several workers runs: the same, --workers."""
    workers = click.option(
        "--workers",
        type=Whole(1, MOST_WORKERS),
        metavar="N",
        help="Threads that carry packets; as many as --cpu has, or 1.",
    )
    cpus = click.option(
        "--cpu",
        "cpu_list",
        metavar="LIST",
        help='Pin each worker to a CPU of this list, such as "2,4-5".',
    )
    return workers(cpus(BUSY(HUGE_PAGES(command))))


def place_workers(workers: int | None, cpu_list: str | None) -> list[int | None]:
    """Return the CPU of each worker, None: wherever the kernel puts it.

    Args:
        workers: how many; None: as many as there are CPUs, or one.
        cpu_list: of CPUs; None: none is pinned.

    Raises:
        ConfigError: that is no list, or not one of so many; we may not run there.
    """
    if cpu_list is None:
        number, ncpus = workers or 1, len(os.sched_getaffinity(0))
        if number > ncpus:
            text = f"{number} workers on {ncpus} CPUs take turns: fewer are faster"
            complain(text)
        return [None] * number
    cpus = parse_cpus(cpu_list)
    for cpu in cpus:
        check_cpu(cpu)
    if workers not in {None, len(cpus)}:
        raise ConfigError(
            f'--workers: "{workers}" is not how many CPUs "{cpu_list}" has, '
            f"{len(cpus)}; each worker has one of its own"
        )
    return list(cpus)


def report_options(command: F) -> F:
    """Add how long it runs and what it prints: --duration, --interval, --json."""
    for option in (
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="One JSON object to the line; the last is the summary.",
        ),
        click.option(
            "--interval",
            type=Number(0.01, 86400),
            default=1.0,
            show_default=True,
            metavar="S",
            help="Seconds between two reports.",
        ),
        click.option(
            "--duration",
            type=Number(0, 1e9),
            metavar="S",
            help="Seconds to run; without it, until it is ended.",
        ),
    ):
        command = option(command)
    return command
