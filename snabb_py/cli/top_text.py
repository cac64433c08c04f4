"""Reports of `snabb-py top` as lines of text."""

import shlex
from typing import Any

from snabb_py.cli.ps import shown, uptime
from snabb_py.cli.run import rates, with_unit

Report = dict[str, Any]


def title_of(report: Report) -> str:
    """Return which instance it is."""
    command = shlex.join([report["program"], *report["arguments"]])
    return shown(f"{report['pid']}  {uptime(report['seconds'])}  {command}")


def worker_text(worker: Report) -> str:
    """Return how a worker is."""
    gap = worker["gap_ns"]
    cpus = f" (CPU {worker['cpus']})" if worker["cpus"] else ""
    return (
        f"worker {worker['worker']}{cpus}: load {worker['load']:.0%}, gap "
        f"{gap['p50'] / 1e3:.1f} us median, {gap['p99'] / 1e3:.1f} us p99, "
        f"{gap['max'] / 1e3:.1f} us longest ever"
    )


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


def lines_of(report: Report) -> list[str]:
    """Return a report as lines."""
    lines = [title_of(report)]
    lines += [f"  {worker_text(worker)}" for worker in report["workers"]]
    lines += [
        f"  {one['app']} {shown(one['interface'])}: in {flow_text(one['in'])}; "
        f"out {flow_text(one['out'])}"
        for one in report["interfaces"]
    ]
    lines += [
        f"  drop {reason}: {rate} ({n})" for reason, rate, n in drop_texts(report)
    ]
    lines += [
        f"  link {link['link']}: {flow_text(link)}, {link['waiting']} waiting"
        for link in report["links"]
    ]
    return lines
