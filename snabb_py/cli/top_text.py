"""Reports of `snabb-py top` as lines of text."""

import shlex
import textwrap
from typing import Any

from snabb_py.cli.ps import uptime
from snabb_py.cli.run import rates, with_unit
from snabb_py.cli.terminal import shown

Report = dict[str, Any]
INDENT = "  "
#: Columns that a name has at least beside what is said of it.
SHORTEST = 12


def title_of(report: Report) -> str:
    """Return which instance it is."""
    command = shlex.join([report["program"], *report["arguments"]])
    return shown(f"{report['pid']}  {uptime(report['seconds'])}  {command}")


def worker_text(worker: Report) -> tuple[str, str]:
    """Return which worker it is, and how it is."""
    gap = worker["gap_ns"]
    cpus = f" (CPU {worker['cpus']})" if worker["cpus"] else ""
    return f"worker {worker['worker']}{cpus}: ", (
        f"load {worker['load']:.0%}, gap {_time(gap['p50'])} median, "
        f"{_time(gap['p99'])} p99, {_time(gap['max'])} longest ever"
    )


def _time(ns: int | None) -> str:
    """Return a time as text; there is none where nothing was measured."""
    return f"{ns / 1e3:.1f} us" if ns else "-"


def flow_text(flow: Report) -> str:
    """Return rate and count of what passes."""
    return f"{', '.join(rates(flow))} ({flow['packets']:,})"


def drop_texts(report: Report) -> list[tuple[str, str, str]]:
    """Return reason, rate and count of all drops, those that grow now first."""
    now = report["drop_rates"]
    order = sorted(report["drops"].items(), key=lambda d: (-now.get(d[0], 0), d[0]))
    return [
        (reason, with_unit(now.get(reason, 0), "pps"), f"{n:,}") for reason, n in order
    ]


def parts_of(report: Report) -> list[tuple[str, str]]:
    """Return the lines of a report behind its title: a name, and what is said of it."""
    parts = [worker_text(worker) for worker in report["workers"]]
    parts += [
        (
            f"{one['app']} {shown(one['interface'])}: ",
            f"in {flow_text(one['in'])}; out {flow_text(one['out'])}",
        )
        for one in report["interfaces"]
    ]
    parts += [
        (f"drop {reason}: ", f"{rate} ({n})") for reason, rate, n in drop_texts(report)
    ]
    parts += [
        (f"link {link['link']}: ", f"{flow_text(link)}, {link['waiting']} waiting")
        for link in report["links"]
    ]
    return parts


def lines_of(report: Report, width: int | None = None) -> list[str]:
    """Return a report as lines.

    Args:
        report: of an instance.
        width: columns that there are: names are shortened, and what does not fit beside
            them comes below; None: any number.
    """
    title = title_of(report)
    if width is None:
        return [title, *(f"{INDENT}{name}{text}" for name, text in parts_of(report))]
    lines = [shortened(title, width)]
    for name, text in parts_of(report):
        lines += narrow_lines(name, text, width)
    return lines


def narrow_lines(name: str, text: str, width: int) -> list[str]:
    """Return a line in so many columns; in lines of their own where it is too long."""
    room = width - len(INDENT) - len(text)
    if room >= min(len(name), SHORTEST):
        return [f"{INDENT}{shortened(name, room)}{text}"]
    below = textwrap.wrap(
        text,
        max(width, SHORTEST),
        initial_indent=2 * INDENT,
        subsequent_indent=2 * INDENT,
    )
    return [INDENT + shortened(name, max(width - len(INDENT), 1)), *below]


def shortened(name: str, width: int) -> str:
    """Return a name in so many columns: what is cut out is in the middle."""
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}…{name[len(name) - end :]}"
