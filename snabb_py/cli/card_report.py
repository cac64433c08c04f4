"""What software cards do, shown while they run and at the end."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from snabb_py._native import lib
from snabb_py.apps.traffic import Checker
from snabb_py.cli.card_wires import Port
from snabb_py.cli.interfaces import UNFINISHED, app_drops
from snabb_py.cli.run import Meter, Reporter, rates, wire_gbps
from snabb_py.cli.terminal import printable
from snabb_py.engine import counter
from snabb_py.engine.engine import Engine

if TYPE_CHECKING:
    from rich.table import Table

#: What a driver or a client did that hardware would not stand: by their counters.
VIOLATIONS = (
    "dma-read-unmapped",
    "dma-write-unmapped",
    "bad-ring",
    "header-split-refused",
    "mmio-bad-size",
    "mmio-outside",
)


class CardMeter:
    """What cards have done, with rates between two looks and over the whole run.

    Args:
        start: when the network began, with nothing counted (time.monotonic).
    """

    def __init__(self, engine: Engine, ports: Sequence[Port], start: float) -> None:
        self.engine = engine
        self.ports = ports
        self.start = self._at = start
        self._first = self._last = [p.card.counters for p in ports]

    def look(self) -> dict[str, Any]:
        """Return the counts, with rates since the last look."""
        now, counters = time.monotonic(), [p.card.counters for p in self.ports]
        cards = self._describe(counters, self._last, now - self._at)
        self._at, self._last = now, counters
        return {"seconds": round(now - self.start, 3), "cards": cards}

    def summary(self, ended: float) -> dict[str, Any]:
        """Return the counts, with rates over the whole run until `ended`."""
        counters = [p.card.counters for p in self.ports]
        common = Meter(self.engine, (), self.start).summary(ended)
        return {
            "seconds": round(ended - self.start, 3),
            "cards": self._describe(counters, self._first, ended - self.start),
            "pages_lost": int(lib.guard_total()),
            "modes": common["modes"],
            "workers": common["workers"],
        }

    def _describe(
        self, now: list[dict[str, int]], before: list[dict[str, int]], seconds: float
    ) -> list[dict[str, Any]]:
        seconds = max(seconds, 1e-9)
        return [
            {
                "socket": printable(str(port.server.path)),
                "mac": port.card.mac.hex(":"),
                "wire": printable(port.wire),
                "connected": port.server.is_connected,
                "plugged": port.is_plugged,
                "rx": self._way("rx", new, old, seconds),
                "tx": self._way("tx", new, old, seconds),
                "interrupts": new["interrupts"],
                "mappings": port.card.nregions,
                "drops": self._drops(port, new),
                "wire_counters": self._wire_counters(port),
                "violations": {name: new[name] for name in VIOLATIONS if new[name]},
                "client": {k: n for k, n in port.server.counters.items() if n},
            }
            for port, new, old in zip(self.ports, now, before, strict=True)
        ]

    @staticmethod
    def _way(
        way: str, new: dict[str, int], old: dict[str, int], seconds: float
    ) -> dict[str, Any]:
        packets, nbytes = new[f"{way}-packets"], new[f"{way}-bytes"]
        fresh = packets - old[f"{way}-packets"]
        gbps = wire_gbps(fresh, nbytes - old[f"{way}-bytes"], seconds)
        return {
            "packets": packets,
            "bytes": nbytes,
            "mpps": round(fresh / seconds / 1e6, 6),
            "gbps": round(gbps, 6),
        }

    def _drops(self, port: Port, counters: dict[str, int]) -> dict[str, int]:
        drops = {k: n for k, n in counters.items() if n and k.startswith("drop-")}
        for name in port.wire_apps:
            drops |= app_drops(self.engine, name)
            if unfinished := self.engine.apps[name].instance.unfinished:
                drops[f"{name} {UNFINISHED}"] = unfinished
        for spec, link in self.engine.links.items():
            if port.name in (spec.from_app, spec.to_app) and link.counters["txdrop"]:
                drops[f"{spec} txdrop"] = link.counters["txdrop"]
        return drops

    def _wire_counters(self, port: Port) -> dict[str, int]:
        """Return what the wire counts beside its drops, by "app counter"."""
        result = {}
        for name in port.wire_apps:
            app = self.engine.apps[name]
            if isinstance(app.instance, Checker):
                returned = sum(s.packets for s in app.instance.streams.values())
                result[f"{name} returned"] = returned
            for counter_name, n in app.counters.items():
                if n and not counter.is_drop(counter_name):
                    result[f"{name} {counter_name}"] = n
        return result


def reasons(card: dict[str, Any]) -> list[str]:
    """Return what a card has lost and suffered, a reason each."""
    return [f"{k}: {n:,}" for k, n in (card["drops"] | card["violations"]).items()]


def plain_line(seconds: float, card: dict[str, Any]) -> str:
    """Return a card's look as a line of text."""
    ways = "  ".join(
        f"{way} {card[way]['packets']} packets {' '.join(rates(card[way]))}"
        for way in ("rx", "tx")
    )
    state = "connected" if card["connected"] else "no client"
    state += "" if card["plugged"] else ", no cable"
    lost = f"  ({', '.join(reasons(card))})" if reasons(card) else ""
    return f"{seconds:8.1f} s  {card['socket']} ({state})  {ways}{lost}"


def table(look: dict[str, Any], title: str) -> "Table":
    """Return a look as a table for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    result = Table(title=f"{title}  {look['seconds']:.0f} s", title_justify="left")
    for column in ("card", "client", "wire"):
        result.add_column(column)
    for way in ("rx", "tx"):
        for column in (f"{way} packets", "rate", "wire rate"):
            result.add_column(column, justify="right")
    result.add_column("drops and violations")
    for card in look["cards"]:
        ways = [
            text
            for way in (card["rx"], card["tx"])
            for text in (f"{way['packets']:,}", *rates(way))
        ]
        result.add_row(
            escape(card["socket"]),
            "connected" if card["connected"] else "-",
            escape(card["wire"]) + ("" if card["plugged"] else " (pulled)"),
            *ways,
            "\n".join(reasons(card)) or "-",
        )
    return result


class CardReporter(Reporter):
    """Shows looks at cards while they run, and the summary at the end."""

    def show(self, look: dict[str, Any]) -> None:
        """Show how things are."""
        if self._live:
            self._live.update(table(look, self.title), refresh=True)
        elif self.as_json:
            super().show(look)
        else:
            for card in look["cards"]:
                self._print(plain_line(look["seconds"], card))

    def finish(self, summary: dict[str, Any]) -> None:
        """Show the summary."""
        super().finish({**summary, "directions": []} if not self.as_json else summary)
        if self.as_json:
            return
        for card in summary["cards"]:
            self._print(f"  {card['socket']}: {card['mac']}, wire {card['wire']}")
            for way, text in (("rx", "received"), ("tx", "sent")):
                self._print(
                    f"    {text} {card[way]['packets']} packets, "
                    f"{card[way]['bytes']} bytes; {', '.join(rates(card[way]))}"
                )
            for reason, n in (card["drops"] | card["violations"]).items():
                self._print(f"    {reason}: {n}")
            for name, n in card["wire_counters"].items():
                self._print(f"    {name}: {n}")
            for reason, n in card["client"].items():
                if not reason.startswith(("connections", "messages")):
                    self._print(f"    client: {reason}: {n}")
        if summary["pages_lost"]:
            self._print(f"  pages that clients took away: {summary['pages_lost']}")
