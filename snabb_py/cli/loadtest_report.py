"""What a load test prints: a trial's rates, losses and verdict, as text or JSON.

Rates are packets a second, and bits a second of the unit that the user chose.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from snabb_py.cli.loadtest_search import Verdict
from snabb_py.cli.loadtest_trial import Outcome, PathOutcome
from snabb_py.cli.run import rates
from snabb_py.cli.terminal import printable

#: Packets under these names do not count as lost, nor as received.
UNCOUNTED = {
    "duplicated": "came twice",
    "reordered": "out of order",
    "foreign": "foreign",
    "bad-stamp": "damaged in their number",
    "bad-ip-checksum": "damaged in their IP header",
    "bad-l4-checksum": "damaged above it",
    "unknown-stream": "of too many streams",
    "of-another-tester": "of another tester",
    "at-another-interface": "at another interface",
}


def rate_of(path: PathOutcome, pps: float) -> dict[str, float]:
    """Return a rate in both units, as a report has it."""
    return {
        "mpps": round(pps / 1e6, 9),
        "gbps": round(path.path.traffic.gbps(pps), 9),
    }


def describe_path(path: PathOutcome) -> dict[str, Any]:
    """Return a direction's part of a trial as plain data; latency in ns."""
    return {
        "from": printable(path.path.source),
        "to": printable(path.path.target),
        "asked": rate_of(path, path.asked),
        "rate": rate_of(path, path.rate),
        "sent": path.sent,
        "received": path.received,
        "lost": path.lost,
        "loss": path.loss,
        "latency_ns": {"p50": path.latency(0.5), "p99": path.latency(0.99)},
        "notes": dict(path.notes),
        "missed": dict(path.missed),
        "missed_before": dict(path.missed_before),
    }


def describe(outcome: Outcome) -> dict[str, Any]:
    """Return a trial as plain data."""
    return {
        "verdict": outcome.verdict.value,
        "paths": [describe_path(path) for path in outcome.paths],
        "drops": dict(outcome.drops),
    }


def rate_text(rate: Mapping[str, float]) -> str:
    """Return a rate of a report as text."""
    return ", ".join(rates(rate))


def _list(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {n}" for name, n in counts.items())


def path_line(path: PathOutcome) -> str:
    """Return what became of a direction's packets."""
    parts = [
        f"sent {path.sent} ({rate_text(rate_of(path, path.rate))})",
        f"received {path.received}",
        f"lost {path.lost}" + (f" ({path.loss:.3%})" if path.lost else ""),
    ]
    median, late = path.latency(0.5), path.latency(0.99)
    if median is not None and late is not None:
        parts.append(f"latency {median / 1e3:.1f} us median, {late / 1e3:.1f} us p99")
    parts += [f"{n} {UNCOUNTED[name]}" for name, n in path.notes.items()]
    return f"  {printable(str(path.path))}: {', '.join(parts)}"


def _missed(outcome: Outcome) -> str:
    """Return what the tester did not send, and when."""
    now: Counter[str] = Counter()
    before: Counter[str] = Counter()
    for path in outcome.paths:
        now.update(path.missed)
        before.update(path.missed_before)
    parts = [_list(now)] if now else []
    parts += [f"while it settled {_list(before)}"] if before else []
    return f" ({'; '.join(parts)})" if parts else ""


def verdict_text(outcome: Outcome) -> str:
    """Return why a trial passed or failed, and whose fault it is."""
    match outcome.verdict:
        case Verdict.LOST:
            lost = sum(path.lost for path in outcome.paths)
            return f"failed, {lost} lost"
        case Verdict.SILENT:
            silent = [str(p.path) for p in outcome.paths if p.sent and not p.received]
            return f"failed, nothing arrived: {printable('; '.join(silent))}"
        case Verdict.TESTER_LOST:
            return f"no result, the tester itself lost {_list(outcome.drops)}"
        case Verdict.SLOW:
            return f"no result, the tester could not send as fast{_missed(outcome)}"
        case _:
            return "passed"


class Printer:
    """Prints trials as they come.

    Args:
        as_json: an object to the line, not text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.trials = 0

    def trial(self, kind: str, outcome: Outcome) -> None:
        """Print a trial: what was asked, its verdict, then each direction."""
        self.trials += 1
        if self.as_json:
            self.object({"trial": self.trials, "kind": kind, **describe(outcome)})
            return
        asked = rate_text(rate_of(outcome.paths[0], outcome.paths[0].asked))
        self.line(f"{kind} {self.trials}: {asked}: {verdict_text(outcome)}")
        for path in outcome.paths:
            self.line(path_line(path))
        if outcome.drops and outcome.verdict is not Verdict.TESTER_LOST:
            self.line(f"  lost here: {_list(outcome.drops)}")

    def object(self, value: Mapping[str, Any]) -> None:
        """Print JSON."""
        print(json.dumps(value), flush=True)

    def line(self, text: str) -> None:
        """Print text."""
        print(text, flush=True)
