"""`snabb-py top` on a terminal: a table that lives, and keys."""

import contextlib
import os
import re
import sys
import termios
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from snabb_py.cli.ps import NOTHING
from snabb_py.cli.readings import Watch
from snabb_py.cli.run import rates, with_unit
from snabb_py.cli.stop import Stop
from snabb_py.cli.terminal import shown
from snabb_py.cli.top_text import (
    Report,
    drop_texts,
    lines_of,
    title_of,
    worker_text,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from snabb_py.cli.top import Beat

#: Columns below which a table is harder to read than text.
NARROW = 70


@contextlib.contextmanager
def keys() -> Iterator[int | None]:
    """Give the file descriptor that single keys come from; None: there are none."""
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (OSError, ValueError, AttributeError, termios.error):
        yield None
        return
    tty.setcbreak(fd)
    try:
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class View:
    """What is shown: the instances, and one of them in detail."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.said = ""
        self._chosen = 0  # pid

    @property
    def at(self) -> int:
        """Place of the instance that is shown in detail."""
        pids = [report["pid"] for report in self.reports]
        return pids.index(self._chosen) if self._chosen in pids else 0

    def press(self, data: bytes) -> bool:
        """Do what keys say; return whether to go on."""
        for key in re.findall(rb"\x1b\[[A-D]|.", data, re.DOTALL):
            if key in {b"q", b"Q", b"\x04"}:
                return False
            step = {b"\x1b[A": -1, b"k": -1, b"\x1b[B": 1, b"j": 1}.get(key, 0)
            if self.reports:
                place = min(max(self.at + step, 0), len(self.reports) - 1)
                self._chosen = self.reports[place]["pid"]
        return bool(data)

    def render(self, width: int) -> "RenderableType":
        """Return it for a terminal of so many columns."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = []
        if len(self.reports) > 1:
            parts += [
                Text(f"{'>' if i == self.at else ' '} {title_of(report)}", no_wrap=True)
                for i, report in enumerate(self.reports)
            ]
        if not self.reports:
            parts.append(Text(NOTHING, no_wrap=True))
        else:
            parts += self._details(self.reports[self.at], width)
        if self.said:
            parts.append(Text(self.said, no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    @staticmethod
    def _details(report: Report, width: int) -> list[Any]:
        from rich.text import Text

        if width < NARROW:
            return [
                Text(line, no_wrap=True, overflow="ellipsis")
                for line in lines_of(report, width)
            ]
        workers = ("".join(worker_text(worker)) for worker in report["workers"])
        head = [title_of(report), *workers]
        lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in head]
        return [*lines, *(t for t in tables(report) if t.row_count)]


def tables(report: Report) -> "list[Table]":
    """Return interfaces, drops and links of an instance as tables."""
    interfaces = _table("interface", "in", "", "out", "")
    for one in report["interfaces"]:
        name = f"{one['app']} {shown(one['interface'])}"
        interfaces.add_row(name, *rates(one["in"]), *rates(one["out"]))
    drops = _table("dropped", "rate", "packets")
    for row in drop_texts(report):
        drops.add_row(*row)
    links = _table("link", "rate", "", "packets", "waiting")
    for link in report["links"]:
        links.add_row(
            link["link"], *rates(link), f"{link['packets']:,}", f"{link['waiting']:,}"
        )
    apps = _table("app", "counter", "rate", "count")
    for app in report["apps"]:
        for name, rate in app["rates"].items():
            apps.add_row(
                app["app"], name, with_unit(rate, "/s"), f"{app['counters'][name]:,}"
            )
    return [interfaces, drops, links, apps]


def _table(first: str, *others: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, expand=True, pad_edge=False)
    table.add_column(first, no_wrap=True, ratio=1)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def live(watch: Watch, pid: int | None, beat: "Beat") -> None:
    """Show reports until the end, on a screen of their own."""
    from rich.console import Console
    from rich.live import Live

    from snabb_py.cli.top import is_over

    console, view = Console(highlight=False), View()
    watch.tell = lambda line: setattr(view, "said", shown(line))
    with Stop() as stop, keys() as fd:
        watch.look()
        with Live(console=console, screen=True, auto_refresh=False) as screen:
            while stop.wait(beat.left, *([] if fd is None else [fd])):
                if beat.left <= 0:
                    view.reports = watch.look()
                    beat.next()
                elif fd is not None and not view.press(os.read(fd, 16)):
                    break
                screen.update(view.render(console.width), refresh=True)
                if pid is not None and not watch.update():
                    break
    if pid is not None:
        is_over(watch, pid)
