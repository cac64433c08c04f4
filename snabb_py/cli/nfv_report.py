"""What the ports of `snabb-py nfv traffic` do, shown while they run and at the end.

"To" and "from" are seen from the virtual machine. Counts of a port go on over changes
of the config, and those of a port that is gone stay.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from snabb_py.cli.interfaces import ECHOES, app_drops
from snabb_py.cli.nfv_network import Chain, links_from, links_to
from snabb_py.cli.run import Meter, Reporter, rates, wire_gbps
from snabb_py.cli.terminal import printable
from snabb_py.engine.app import App
from snabb_py.engine.config import LinkSpec
from snabb_py.engine.engine import Engine
from snabb_py.engine.plan import halves
from snabb_py.nic.intel82599 import QUEUE_COUNTERS, Intel82599
from snabb_py.nic.intel82599_statistics import NAMES
from snabb_py.virtio.net_device import VhostUser

if TYPE_CHECKING:
    from rich.table import Table

#: Of a port: (way, "packets" or "bytes" or "app reason").
Tally = Counter[tuple[str, str]]
#: Ports that are gone and still counted.
MOST_GONE: Final = 1000
WAYS: Final = {"to": "rx", "from": "tx"}  #: as the guest's network card has it


def tally(engine: Engine, chain: Chain) -> Tally:
    """Return what a port's apps have counted."""
    result: Tally = Counter()
    counters = engine.apps[chain.vm].counters
    for way, prefix in WAYS.items():
        for unit in ("packets", "bytes"):
            result[way, unit] = counters[f"{prefix}-{unit}"]
    for way, apps, links, other in (
        ("to", chain.to_vm, links_to(chain), "drop-tx-"),
        ("from", chain.from_vm, links_from(chain), "drop-rx-"),
    ):
        drops = app_drops(engine, chain.vm, other)
        if chain.nic:
            at_nic = app_drops(engine, chain.nic, other)
            drops |= {k: n for k, n in at_nic.items() if k.split()[1] in QUEUE_COUNTERS}
        for app in apps:
            drops |= app_drops(engine, app)
        drops |= {f"{spec} txdrop": _lost(engine, spec) for spec in links}
        result.update({(way, reason): n for reason, n in drops.items() if n})
    return result


def _lost(engine: Engine, spec: LinkSpec) -> int:
    """Return what was lost on a link, also if its ends are of two workers."""
    links = [engine.links.get(part) for part in (spec, *halves(spec))]
    return sum(link.counters["txdrop"] for link in links if link)


def _statistics(app: App) -> dict[str, int]:
    """Return what a device has counted; of those who share a card, one says it."""
    if isinstance(app, Intel82599) and not app.is_leader:
        return {}
    return app.statistics()


class NfvMeter:
    """What ports have done, with rates between two looks and over the whole run.

    Args:
        start: when the network began, with nothing counted (time.monotonic).
    """

    def __init__(self, engine: Engine, start: float) -> None:
        self.engine = engine
        self.start = self._at = start
        self.chains: Mapping[str, Chain] = {}
        #: Of apps that are gone.
        self._past: dict[str, Tally] = {}
        self._last: dict[str, Tally] = {}
        self.lock = threading.RLock()

    def change(self, commit: Callable[[], None], chains: Mapping[str, Chain]) -> None:
        """Let the network change; what was counted stays counted.

        Args:
            commit: changes it; on an exception of its, nothing has changed.
            chains: afterwards.
        """
        with self.lock:
            before = self._now()
            try:
                commit()
                self.chains = chains
            finally:
                # Not only then: what did not work out may have been begun.
                self._keep(before)

    def forget(self) -> None:
        """Have no ports: what runs is nobody's."""
        with self.lock:
            self.chains = {}

    def _keep(self, before: dict[str, Tally]) -> None:
        """Keep what apps had counted that are gone or have begun anew."""
        after = self._now()
        for port_id, counts in before.items():
            now = after.get(port_id, Counter())
            past = self._past.setdefault(port_id, Counter())
            for key, n in counts.items():
                if now[key] < n:
                    past[key] += n - now[key]
        gone = [port_id for port_id in self._past if port_id not in self.chains]
        for port_id in gone[:-MOST_GONE]:
            del self._past[port_id]

    def _now(self) -> dict[str, Tally]:
        return {i: tally(self.engine, chain) for i, chain in self.chains.items()}

    def totals(self) -> dict[str, Tally]:
        """Return each port's counts, those of ports that are gone too."""
        with self.lock:
            result = {i: Counter(counts) for i, counts in self._past.items()}
            for port_id, counts in self._now().items():
                result.setdefault(port_id, Counter()).update(counts)
            return result

    def look(self) -> dict[str, Any]:
        """Return the counts, with rates since the last look."""
        with self.lock:
            now, totals = time.monotonic(), self.totals()
            ports = self._describe(totals, self._last, now - self._at)
            self._at, self._last = now, totals
            return {
                "report": "load",
                "seconds": round(now - self.start, 3),
                "ports": [port for port in ports if not port["removed"]],
                "drops": self._other_drops(),
            }

    def summary(self, ended: float) -> dict[str, Any]:
        """Return the counts, with rates over the whole run until `ended`."""
        with self.lock:
            common = Meter(self.engine, (), self.start).summary(ended)
            return {
                "seconds": round(ended - self.start, 3),
                "ports": self._describe(self.totals(), {}, ended - self.start),
                "drops": self._other_drops(),
                "modes": common["modes"],
                "workers": common["workers"],
            }

    def _describe(
        self, totals: dict[str, Tally], before: dict[str, Tally], seconds: float
    ) -> list[dict[str, Any]]:
        # In the order of the config, then those that are gone.
        order = [*self.chains, *(i for i in totals if i not in self.chains)]
        return [
            {
                "port": port_id,
                "removed": port_id not in self.chains,
                **self._state(port_id),
                **{
                    way: self._way(
                        way,
                        totals[port_id],
                        before.get(port_id, Counter()),
                        max(seconds, 1e-9),
                    )
                    for way in WAYS
                },
            }
            for port_id in order
        ]

    def _state(self, port_id: str) -> dict[str, Any]:
        chain = self.chains.get(port_id)
        if chain is None:
            return {}
        app = self.engine.apps[chain.vm].instance
        port = app.port if isinstance(app, VhostUser) else None
        return {
            "socket": printable(str(chain.path)),
            "worker": chain.worker,
            "connected": bool(port and port.is_connected),
            "ready": bool(port and port.device.has_guest),
        }

    @staticmethod
    def _way(way: str, now: Tally, old: Tally, seconds: float) -> dict[str, Any]:
        packets, nbytes = now[way, "packets"], now[way, "bytes"]
        fresh = packets - old[way, "packets"]
        gbps = wire_gbps(fresh, nbytes - old[way, "bytes"], seconds)
        return {
            "packets": packets,
            "bytes": nbytes,
            "mpps": round(fresh / seconds / 1e6, 6),
            "gbps": round(gbps, 6),
            "drops": {
                reason: n
                for (its_way, reason), n in now.items()
                if its_way == way and reason not in {"packets", "bytes"} and n
            },
        }

    def _other_drops(self) -> dict[str, int]:
        """Return what was lost where it is no port's: at the card, in the bridge."""
        drops: dict[str, int] = {}
        inside = {app for chain in self.chains.values() for app in chain.apps}
        has_model = any(name.endswith("-card") for name in self.engine.apps)
        for name in self.engine.apps.keys() - inside:
            drops |= app_drops(self.engine, name)
        for chain in self.chains.values():
            if not chain.nic:
                continue
            for text, n in app_drops(self.engine, chain.nic).items():
                reason = text.partition(" ")[2]
                # What the driver reads from a software card, that has counted itself.
                if reason in NAMES and not (has_model and reason in ECHOES):
                    drops[text] = n
        links = {
            link
            for chain in self.chains.values()
            for spec in (*links_to(chain), *links_from(chain))
            for link in (spec, *halves(spec))
        }
        for spec, link in self.engine.links.items():
            if spec not in links and (n := link.counters["txdrop"]):
                drops[f"{spec} txdrop"] = n
        for worker in self.engine.workers:
            if n := worker.row["drop-reconfigure"]:
                drops[f"worker-{worker.number} drop-reconfigure"] = n
        return dict(sorted(drops.items()))

    def links(self) -> dict[str, Any]:
        """Return what all links have carried and lost."""
        with self.lock:
            rows = {str(s): k.counters for s, k in sorted(self.engine.links.items())}
        return {"report": "links", "seconds": self._seconds(), "links": rows}

    def debug(self) -> dict[str, Any]:
        """Return all counters that are not 0, those of devices and sockets too."""
        with self.lock:
            apps = {
                name: {
                    k: n
                    for k, n in (app.counters | _statistics(app.instance)).items()
                    if n
                }
                for name, app in sorted(self.engine.apps.items())
            }
        return {"report": "debug", "seconds": self._seconds(), "apps": apps}

    def _seconds(self) -> float:
        return round(time.monotonic() - self.start, 3)


def _ways(port: dict[str, Any]) -> str:
    return "  ".join(
        f"{way} {port[way]['packets']} packets {' '.join(rates(port[way]))}"
        for way in WAYS
    )


def _reasons(drops: Mapping[str, int]) -> list[str]:
    return [f"{reason}: {n:,}" for reason, n in drops.items()]


def _all_reasons(port: dict[str, Any]) -> list[str]:
    return [line for way in WAYS for line in _reasons(port[way]["drops"])]


def _condition(port: dict[str, Any]) -> str:
    if port["removed"]:
        return "removed"
    if port["ready"]:
        return "ready"
    return "connected" if port["connected"] else "nobody"


def table(look: dict[str, Any], title: str) -> "Table":
    """Return a look as a table for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    result = Table(title=f"{title}  {look['seconds']:.0f} s", title_justify="left")
    result.add_column("port")
    result.add_column("guest")
    for way in WAYS:
        for column in (f"{way} it", "rate", "wire rate"):
            result.add_column(column, justify="right")
    result.add_column("drops by reason")
    for port in look["ports"]:
        result.add_row(
            escape(port["port"]),
            _condition(port),
            *(
                text
                for way in WAYS
                for text in (f"{port[way]['packets']:,}", *rates(port[way]))
            ),
            escape("\n".join(_all_reasons(port)) or "-"),
        )
    if look["drops"]:
        lines = escape("\n".join(_reasons(look["drops"])))
        result.add_row("(all)", *[""] * 7, lines)
    return result


class NfvReporter(Reporter):
    """Shows looks at ports while they run, and the summary at the end.

    A line has the drops that have come since the last one; the table, JSON and the
    summary have all.
    """

    #: Drops that lines have shown, by port and way; ("", ""): nobody's.
    _told: dict[tuple[str, str], Mapping[str, int]]

    def __init__(
        self, title: str, *, as_json: bool, is_stdout_taken: bool = False
    ) -> None:
        super().__init__(title, as_json=as_json, is_stdout_taken=is_stdout_taken)
        self._told = {}

    def _fresh(self, drops: Mapping[str, int], port: str = "", way: str = "") -> str:
        """Return the drops that have come since this was asked last, as text."""
        before = self._told.get((port, way), {})
        self._told[port, way] = drops
        new = {k: n - before.get(k, 0) for k, n in drops.items()}
        return ", ".join(_reasons({k: n for k, n in new.items() if n > 0}))

    def show(self, look: dict[str, Any]) -> None:
        """Show how things are."""
        if self._live:
            self._live.update(table(look, self.title), refresh=True)
        elif self.as_json:
            super().show(look)
        else:
            for port in look["ports"]:
                parts = (self._fresh(port[w]["drops"], port["port"], w) for w in WAYS)
                lost = ", ".join(filter(None, parts))
                self._print(
                    f"{look['seconds']:8.1f} s  {port['port']} ({_condition(port)})  "
                    f"{_ways(port)}" + (f"  ({lost})" if lost else "")
                )
            if lost := self._fresh(look["drops"]):
                self._print(f"{look['seconds']:8.1f} s  lost: {lost}")

    def tell(self, report: dict[str, Any]) -> None:
        """Show links or counters, beside the table if there is one."""
        if self.as_json:
            self._print(json.dumps(report))
            return
        lines = [f"{report['report']} after {report['seconds']:.1f} s"]
        for name, counts in (report.get("links") or report.get("apps") or {}).items():
            row = ", ".join(f"{k} {n}" for k, n in counts.items())
            lines.append(f"  {name}: {row or '-'}")
        for line in lines:
            if self._live:
                self._live.console.print(line, markup=False, highlight=False)
            else:
                self._print(line)

    def finish(self, summary: dict[str, Any]) -> None:
        """Show the summary."""
        super().finish({**summary, "directions": []} if not self.as_json else summary)
        if self.as_json:
            return
        for port in summary["ports"]:
            gone = " (removed)" if port["removed"] else ""
            self._print(f"  {port['port']}{gone}")
            for way in WAYS:
                counts = port[way]
                self._print(
                    f"    {way} it: {counts['packets']} packets, "
                    f"{counts['bytes']} bytes; {', '.join(rates(counts))}"
                )
                for reason, n in counts["drops"].items():
                    self._print(f"      {reason}: {n}")
        for reason, n in summary["drops"].items():
            self._print(f"  {reason}: {n}")
        if bench := summary.get("benchmark"):
            self._print(
                f"  Processed {bench['packets'] / 1e6:.3f} million packets in "
                f"{bench['seconds']:.3f} seconds ({bench['bytes']} bytes; "
                f"{bench['gbps']:.3f} Gbps)"
            )
            self._print(
                f"  Made {bench['breaths']} breaths: "
                f"{bench['packets_per_breath']:.2f} packets per breath; "
                f"{bench['us_per_breath']:.2f} us per breath"
            )
            self._print(f"  Rate (Mpps): {bench['mpps']:.3f}")
