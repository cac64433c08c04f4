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
        rate: highest that a trial has passed at, as it was really sent; None: none has.
        failed: lowest above it that the device has failed at; None: none.
        no_result: lowest above it, and below that, that the tester was not up to; None:
            none.
        verdict: of the trial that is next above; None: the highest rate asked passed.
    """

    rate: float | None
    failed: float | None = None
    no_result: float | None = None
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
        through ends the search. Without a result a rate proves nothing, neither that
        it is too high nor that what was sent of it passes: lower ones are tried.
        """
        passed: float | None = None
        above: list[Finding] = []  # downwards
        rate, floor = self.high, self.low
        while True:
            finding = self._attempt(trial, rate)
            if finding.verdict is Verdict.PASSED:
                passed, floor = finding.sent, finding.asked
            else:
                above.append(finding)
            if not above or finding.is_silent:
                break
            top = above[-1].asked
            if top - floor > self.precision * top:
                rate = (floor + top) / 2
                if floor < finding.sent < rate:
                    rate = finding.sent  # more than that the tester will not send
            elif passed is None and self.low < top:
                rate = self.low
            else:
                break
        return _limit(passed, above)

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


def _limit(passed: float | None, above: list[Finding]) -> Limit:
    """Return what is known between a rate that passed and those above, downwards."""
    failed = [f.asked for f in above if not f.verdict.is_testers]
    no_result = [f.asked for f in above if f.verdict.is_testers]
    lowest = above[-1].verdict if above else None
    return Limit(
        passed,
        failed[-1] if failed else None,
        no_result[-1] if lowest and lowest.is_testers else None,
        lowest,
    )
