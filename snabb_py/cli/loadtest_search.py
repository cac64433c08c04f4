"""The search for a limit: which rate to try next, and what the trials say together.

Pure: a trial is a function of the rate. Imports nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What became of a trial; the value is for reports."""

    PASSED = "passed"
    #: The device lost more than is allowed.
    LOST = "lost"
    #: Nothing was lost by the device, but less was offered than asked.
    SLOW = "tester-slow"
    #: What was lost, the tester's own interfaces lost.
    TESTER_LOST = "tester-lost"
    #: Of one direction not a single packet came.
    SILENT = "nothing-arrived"

    @property
    def is_testers(self) -> bool:
        """Whether it says more about the tester than about the device."""
        return self in {Verdict.SLOW, Verdict.TESTER_LOST}


#: Of tries of the same rate, what counts more comes later.
WEIGHTS = (
    Verdict.SILENT,
    Verdict.TESTER_LOST,
    Verdict.SLOW,
    Verdict.LOST,
    Verdict.PASSED,
)


@dataclass(frozen=True)
class Finding:
    """What a trial has shown.

    Attributes:
        asked: the rate, packets a second.
        sent: the rate that there really was.
        verdict: of the trial.
    """

    asked: float
    sent: float
    verdict: Verdict

    @property
    def is_silent(self) -> bool:
        """Whether nothing came through the device."""
        return self.verdict is Verdict.SILENT


@dataclass(frozen=True)
class Limit:
    """The result of a search.

    Attributes:
        rate: highest that has passed, as it was really sent; None: none has.
        failed: lowest that has failed above it; None: the highest one asked passed.
        verdict: of the trial that failed.
    """

    rate: float | None
    failed: float | None = None
    verdict: Verdict | None = None


Trial = Callable[[float], Finding]


@dataclass(frozen=True)
class Search:
    """A search for the highest rate that passes; all rates are packets a second.

    Args:
        low: least rate that is of interest.
        high: highest one.
        precision: share of the rate that may be left between passed and failed.
        retries: further trials of a rate that has failed.
    """

    low: float
    high: float
    precision: float
    retries: int = 0

    def run(self, trial: Trial) -> Limit:
        """Return what trials show: of the highest rate first, then by halves.

        As RFC 2544, 26.1: down from the highest rate, up from one that passed. A rate
        has failed if it has as often as it was tried. A device that nothing comes
        through ends the search.
        """
        passed, top = self._halve(trial)
        if top.verdict is Verdict.PASSED:
            return Limit(top.sent)
        if passed is None and self.low < top.asked and not top.is_silent:
            least = self._attempt(trial, self.low)
            if least.verdict is Verdict.PASSED:
                return Limit(least.sent, top.asked, top.verdict)
            top = least
        return Limit(passed, top.asked, top.verdict)

    def _halve(self, trial: Trial) -> tuple[float | None, Finding]:
        """Return the highest rate passed, as sent, and the lowest trial failed."""
        passed: float | None = None
        floor, top = self.low, self._attempt(trial, self.high)
        while top.verdict is not Verdict.PASSED and not top.is_silent:
            if top.verdict is Verdict.SLOW:
                # What the tester did send came through: that much is shown.
                passed = max(passed or 0, top.sent)
                floor = max(floor, passed)
            if top.asked - floor <= self.precision * top.asked:
                break
            finding = self._attempt(trial, (floor + top.asked) / 2)
            if finding.verdict is Verdict.PASSED:
                passed, floor = finding.sent, finding.asked
            else:
                top = finding
        return passed, top

    def _attempt(self, trial: Trial, rate: float) -> Finding:
        """Return what the tries of a rate show: a loss, if there was one but no pass.

        A tester that could not do it in one of them proves nothing about the device.
        """
        findings: list[Finding] = []
        while len(findings) <= self.retries:
            findings.append(trial(rate))
            if findings[-1].verdict is Verdict.PASSED:
                break
        return max(findings, key=lambda f: (WEIGHTS.index(f.verdict), f.sent))
