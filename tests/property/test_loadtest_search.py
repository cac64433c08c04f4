"""Laws of the search for a limit, against devices and testers of which all is known."""

import math
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from snabb_py.cli.loadtest_search import Finding, Limit, Search, Verdict

RATES = st.floats(1, 1e9)
PRECISIONS = st.floats(1e-3, 0.3)


@dataclass
class Bench:
    """A device that passes up to a rate, and a tester that sends up to one.

    The tester may fall short by a share, the search's precision.
    """

    device: float
    tester: float = math.inf
    slack: float = 0
    #: Trials of a rate that passes which are disturbed before one is not.
    disturbed: int = 0
    asked: list[float] = field(default_factory=list)

    def __call__(self, rate: float) -> Finding:
        self.asked.append(rate)
        sent = min(rate, self.tester)
        if sent > self.device or self.asked.count(rate) <= self.disturbed:
            return Finding(rate, sent, Verdict.LOST)
        is_slow = sent < rate * (1 - self.slack)
        return Finding(rate, sent, Verdict.SLOW if is_slow else Verdict.PASSED)


def ordered(a: float, b: float) -> tuple[float, float]:
    return min(a, b), max(a, b)


@given(RATES, RATES, RATES, PRECISIONS)
def test_the_limit_is_found_to_the_precision(
    a: float, b: float, device: float, precision: float
) -> None:
    low, high = ordered(a, b)
    bench = Bench(device)
    limit = Search(low, high, precision).run(bench)
    if device >= high:
        assert limit == Limit(high)
        assert bench.asked == [high]
    elif device < low:
        assert limit == Limit(None, low, None, Verdict.LOST)
    else:
        assert limit.rate is not None
        assert limit.failed is not None
        assert limit.rate <= device < limit.failed
        assert limit.failed - limit.rate <= precision * limit.failed * (1 + 1e-9)
    # Halves: never more than it takes to cut the whole range down, and the two ends.
    width = math.log2(max(1, (high - low) / (precision * low)))
    assert len(bench.asked) <= math.ceil(width) + 3
    assert all(low <= rate <= high for rate in bench.asked)


@given(RATES, RATES, RATES, RATES, PRECISIONS)
def test_what_the_tester_cannot_send_is_not_the_devices_failure(
    a: float, b: float, device: float, tester: float, precision: float
) -> None:
    low, high = ordered(a, b)
    bench = Bench(device, tester, precision)
    limit = Search(low, high, precision).run(bench)
    assert limit.rate is None or limit.rate <= min(device, tester)
    if tester < min(device, high) * (1 - precision):
        assert limit.verdict is Verdict.SLOW
        assert limit.no_result is not None
        assert limit.failed is None
        if tester >= low:
            assert limit.rate is not None
            assert tester * (1 - precision) <= limit.rate * (1 + 1e-9)
    elif tester > device:
        assert limit.verdict in {None, Verdict.LOST}


@given(RATES, RATES, PRECISIONS, st.integers(0, 5))
def test_retries_make_good_as_many_disturbances(
    device: float, high: float, precision: float, disturbed: int
) -> None:
    low = high / 1000
    calm = Search(low, high, precision).run(Bench(device))
    bench = Bench(device, disturbed=disturbed)
    assert Search(low, high, precision, retries=disturbed).run(bench) == calm


def test_a_loss_says_more_than_a_tester_that_was_too_slow() -> None:
    verdicts = [Verdict.SLOW, Verdict.LOST, Verdict.SLOW, Verdict.PASSED]
    script = iter(verdicts)

    def trial(rate: float) -> Finding:
        return Finding(rate, rate * 0.9, next(script))

    limit = Search(1, 2, 0.5, retries=2).run(trial)
    assert limit == Limit(0.9, 2, None, Verdict.LOST)


VERDICTS = st.sampled_from([Verdict.PASSED, Verdict.LOST, Verdict.SLOW])


@given(st.lists(VERDICTS, max_size=40), st.integers(0, 2))
def test_the_limit_is_a_rate_that_passed_below_all_that_did_not(
    verdicts: list[Verdict], retries: int
) -> None:
    # A tester that was held up while it settled has sent what was asked, and proves
    # nothing all the same.
    found: list[Finding] = []

    def trial(rate: float) -> Finding:
        verdict = verdicts[len(found)] if len(found) < len(verdicts) else Verdict.LOST
        found.append(Finding(rate, rate, verdict))
        return found[-1]

    limit = Search(1, 1000, 0.01, retries).run(trial)
    passed = {f.asked for f in found if f.verdict is Verdict.PASSED}
    assert limit.rate == max(passed, default=None)
    tried = {f.asked: f.verdict for f in found if f.asked not in passed}
    lost = {f.asked for f in found if f.verdict is Verdict.LOST} - passed
    assert limit.failed == min(lost, default=None)
    assert limit.verdict is None or limit.verdict in {Verdict.LOST, Verdict.SLOW}
    if limit.no_result is not None:
        assert limit.no_result == min(tried)
        assert limit.failed is None or limit.no_result < limit.failed


def test_a_device_that_falls_silent_ends_the_search() -> None:
    asked = []

    def trial(rate: float) -> Finding:
        asked.append(rate)
        silent = len(asked) > 2
        return Finding(rate, rate, Verdict.SILENT if silent else Verdict.LOST)

    assert Search(1, 100, 0.01).run(trial).verdict is Verdict.SILENT
    assert len(asked) == 3
