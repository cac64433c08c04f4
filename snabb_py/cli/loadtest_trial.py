"""A trial: a load at one rate for a while, and what became of each packet.

    tester = LoadTest(engine, network, timing)
    outcome = tester.trial({path: pps ...})

Each trial has streams of its own and new checkers, so that what is late of the one
before cannot be taken for it. Generators run on from one phase to the next and take
the new rate on the way; the first phases are not counted:

    overload  more than the device takes, until it loses all the time: what it lets
              pass at once (a policer's burst) or stores is used up
    settle    the trial's rate: queues of the overload become empty
    measure   as many packets as the rate has due in the duration
    drain     nothing, until all have come or nothing more does
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from snabb_py.apps.traffic import Checker, Generator
from snabb_py.cli.interfaces import ECHOES
from snabb_py.cli.loadtest_network import Network, Path
from snabb_py.cli.loadtest_search import Finding, Verdict
from snabb_py.engine.engine import Engine
from snabb_py.engine.histogram import percentile
from snabb_py.errors import SnabbError

#: Looks in a row, of 10 ms, at each of which more was lost: the device is overloaded.
#: So many because a queue in front of a policer may lose packets long before the
#: policer does: it must have seen enough of them.
OVERLOADED_LOOKS = 50
#: What a generator may take longer than its packets are due, ns.
GRACE_NS = 2_000_000
#: What may have happened to packets besides being lost, of a Checker's counters.
ODDITIES = (
    "foreign",
    "bad-stamp",
    "bad-ip-checksum",
    "bad-l4-checksum",
    "unknown-stream",
)


class EndedError(SnabbError):
    """The user has ended the test."""


@dataclass(frozen=True)
class Timing:
    """How long things take, in seconds of the generators.

    Attributes:
        duration: of the measured load.
        drain: at most, for what is still under way; of the clock.
        overload: at most; 0: none.
        settle: 0: none.
    """

    duration: float
    drain: float
    overload: float = 0
    settle: float = 0


@dataclass(frozen=True)
class PathOutcome:
    """What became of the packets of one direction.

    Attributes:
        path: the direction.
        asked: packets a second.
        rate: packets a second that were really sent.
        sent: packets.
        received: of these, each counted once.
        latency_ns: histogram; empty where frames have no room for the time.
        notes: what else came or happened, by name.
        missed: packets that were not sent in time, by reason.
        missed_before: the same of settling: a policer has saved up for the trial.
    """

    path: Path
    asked: float
    rate: float
    sent: int
    received: int
    latency_ns: Sequence[int] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)
    missed_before: Mapping[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Packets sent and not received; those that others forged make none good."""
        return max(self.sent - self.received, 0)

    @property
    def nmissed(self) -> int:
        """Packets that were not sent in time, when it was measured or before."""
        return sum(self.missed.values()) + sum(self.missed_before.values())

    @property
    def loss(self) -> float:
        """The share of them."""
        return self.lost / self.sent if self.sent else 0.0

    def latency(self, share: float) -> int | None:
        """Return a percentile in ns."""
        if not any(self.latency_ns):
            return None
        return percentile(self.latency_ns, share)


@dataclass(frozen=True)
class Outcome:
    """What a trial has shown.

    Attributes:
        paths: by direction.
        drops: packets lost in this process by "app reason".
        verdict: of all directions together.
    """

    paths: Sequence[PathOutcome]
    drops: Mapping[str, int]
    verdict: Verdict

    @property
    def finding(self) -> Finding:
        """What a search wants to know: of the slowest generator."""
        slowest = min(self.paths, key=lambda p: p.rate / p.asked)
        return Finding(slowest.asked, slowest.rate, self.verdict)


@dataclass(frozen=True)
class _Counts:
    """What there is to tell of a moment: drops by "app reason", missed by path."""

    drops: Mapping[str, int] = field(default_factory=dict)
    missed: Mapping[Path, Mapping[str, int]] = field(default_factory=dict)


@dataclass
class _Phase:
    """Who sends what at the moment: streams by path, checkers by arrival."""

    streams: dict[Path, int]
    generators: dict[Path, Generator]
    checkers: dict[str, Checker]

    def received(self, path: Path) -> tuple[int, int]:
        """Return packets of a stream that came where they should, and gaps in it."""
        stream = self.checkers[path.arrival].streams.get(self.streams[path])
        if not stream:
            return 0, 0
        return stream.packets - stream.duplicated, stream.lost


class LoadTest:
    """Makes trials on a network, one after the other.

    Args:
        engine: runs nothing else.
        network: what is tested, and with what.
        timing: of a trial.
        overload_pps: rate of the overload, in each direction.
        tolerance: share of the packets that may be lost.
        slack: share of its packets that a generator may have missed. While it stands
            still a policer saves up, and then lets pass as much too much.
    """

    def __init__(  # noqa: PLR0913 - what a trial consists of
        self,
        engine: Engine,
        network: Network,
        timing: Timing,
        *,
        overload_pps: float = 0,
        tolerance: float = 0,
        slack: float = 0.0025,
    ) -> None:
        self.engine = engine
        self.network = network
        self.timing = timing
        self.overload_pps = overload_pps
        self.tolerance = tolerance
        self.slack = slack
        self._trials = 0
        # Where another tester is on the same wire, its streams are not ours.
        self._stream = secrets.randbits(32)
        self._first_stream = self._stream
        self._since = _Counts()

    # -- phases ----------------------------------------------------------------

    def _send(self, pps: float, *, count: int = 0, timed: bool = False) -> _Phase:
        """Begin new streams at a rate, of so many packets or without end.

        What was counted until then is in `_since`.
        """
        config = self.network.with_checkers(str(self._trials))
        streams = {}
        for path in self.network.paths:
            traffic = path.traffic.timed() if timed else path.traffic
            streams[path] = self._stream
            config.give(
                path.generator,
                frames=traffic.frames,
                stream=self._stream,
                rate_gbps=path.traffic.wire_gbps(pps),
                count=count,
            )
            self._stream = (self._stream + 1) % 2**32
        self.engine.commit(config, between=self._note)
        return self._phase(streams)

    def _note(self) -> None:
        self._since = self._count()

    def _phase(self, streams: dict[Path, int]) -> _Phase:
        apps = self.engine.apps
        return _Phase(
            streams,
            {path: _generator(apps[path.generator].instance) for path in streams},
            {
                name: _checker(apps[f"{name}-{self._trials}"].instance)
                for name in self.network.arrivals
            },
        )

    def _wait(self, done: Callable[[], bool], seconds: float | None = None) -> None:
        """Wait until something is so, asked every 10 ms.

        Raises:
            EndedError: the user does not want to.
        """
        self.engine.main(duration=seconds, done=done)
        if self.engine.has_ended:
            raise EndedError("interrupted")

    def _pass(self, phase: _Phase, seconds: float) -> bool:
        """Return whether a phase has lasted so long, in its generators' time."""
        return all(
            g.is_done or g.elapsed_ns >= seconds * 1e9
            for g in phase.generators.values()
        )

    def _overload(self) -> None:
        phase = self._send(self.overload_pps)
        gaps, looks = [0] * len(phase.streams), 0

        def is_enough() -> bool:
            nonlocal gaps, looks
            before, gaps = gaps, [phase.received(path)[1] for path in phase.streams]
            is_losing = all(b < n for b, n in zip(before, gaps, strict=True))
            looks = looks + 1 if is_losing else 0
            return looks >= OVERLOADED_LOOKS or self._pass(phase, self.timing.overload)

        self._wait(is_enough)

    # -- trial -----------------------------------------------------------------

    def trial(self, pps: float, *, duration: float | None = None) -> Outcome:
        """Offer a load in each direction; return what became of it.

        Args:
            pps: packets a second in each direction.
            duration: instead of the usual one, without overload.

        Raises:
            EndedError: the user has ended it.
        """
        self._trials += 1
        if duration is None and self.timing.overload:
            self._overload()
        before = None
        if duration is None and self.timing.settle:
            settling = self._send(pps)
            self._wait(lambda: self._pass(settling, self.timing.settle))
            before = self._since
        duration = duration or self.timing.duration
        count = max(round(pps * duration), 1)
        phase = self._send(pps, count=count, timed=True)
        self._wait(lambda: self._pass(phase, duration + GRACE_NS / 1e9 + 1 / pps))
        self._stop(phase)
        self._wait(lambda: self._is_complete(phase), self.timing.drain)
        start, end = self._since, self._count()
        paths = [
            self._outcome(
                path,
                phase,
                pps,
                _grown(start.missed[path], end.missed[path]),
                _grown((before or start).missed[path], start.missed[path]),
            )
            for path in self.network.paths
        ]
        drops = _grown(start.drops, end.drops)
        return Outcome(paths, drops, self._judge(paths, drops))

    def _stop(self, phase: _Phase) -> None:
        """End generators that could not send all in time; they have sent some."""
        late = [p for p, g in phase.generators.items() if not g.is_done]
        if not late:
            return
        config = self.engine.config.copy()
        for path in late:
            config.give(path.generator, count=1)
        self.engine.commit(config)
        phase.generators = self._phase(phase.streams).generators

    def _is_complete(self, phase: _Phase) -> bool:
        return all(
            phase.received(path)[0] >= generator.sent
            for path, generator in phase.generators.items()
        )

    def _count(self) -> _Counts:
        return _Counts(self._drops(), self._missed())

    def _drops(self) -> dict[str, int]:
        """Return all drops by "app reason", interfaces called as by the user.

        What drivers read from their cards is read now; from software cards it is not,
        which have counted it themselves.
        """
        echoes = set()
        for interface in self.network.interfaces:
            if interface.statistics in self.engine.apps:
                self.engine.apps[interface.statistics].instance.statistics()
            if interface.sim:
                echoes |= {f"{interface.inside[-1]} {reason}" for reason in ECHOES}
        words = self.network.words
        return {
            " ".join((words.get(app, app), *rest)): n
            for (app, *rest), n in (
                (name.split(" "), n)
                for name, n in self.engine.drops().items()
                if name not in echoes
            )
        }

    def _missed(self) -> dict[Path, dict[str, int]]:
        apps = self.engine.apps
        return {
            path: apps[path.generator].counters if path.generator in apps else {}
            for path in self.network.paths
        }

    def _outcome(
        self,
        path: Path,
        phase: _Phase,
        pps: float,
        missed: dict[str, int],
        missed_before: dict[str, int],
    ) -> PathOutcome:
        generator = phase.generators[path]
        checker = phase.checkers[path.arrival]
        stream = checker.streams.get(phase.streams[path])
        return PathOutcome(
            path,
            pps,
            # From the first packet to the last: the last one's turn is not in it.
            generator.sent / max(generator.elapsed_ns / 1e9, generator.sent / pps),
            generator.sent,
            stream.packets - stream.duplicated if stream else 0,
            checker.latency,
            self._notes(path, phase),
            missed,
            missed_before,
        )

    def _notes(self, path: Path, phase: _Phase) -> dict[str, int]:
        """Return what is odd about a direction and where it ends, by name."""
        mine, notes = phase.streams[path], dict.fromkeys(ODDITIES, 0)
        counters = self.engine.apps[f"{path.arrival}-{self._trials}"].counters
        notes |= {name: counters[name] for name in ODDITIES}
        streams = phase.checkers[path.arrival].streams
        if mine in streams:
            notes["duplicated"] = streams[mine].duplicated
            notes["reordered"] = streams[mine].reordered
        ours = (self._stream - self._first_stream) % 2**32
        notes["of-another-tester"] = sum(
            stream.packets
            for number, stream in streams.items()
            if (number - self._first_stream) % 2**32 >= ours
        )
        for name, checker in phase.checkers.items():
            if name != path.arrival and mine in checker.streams:
                notes["at-another-interface"] = checker.streams[mine].packets
        return {name: n for name, n in notes.items() if n}

    def _judge(self, paths: Sequence[PathOutcome], drops: Mapping[str, int]) -> Verdict:
        if any(p.sent and not p.received for p in paths):
            return Verdict.SILENT
        own = 0 if self.network.is_own else sum(drops.values())
        too_many = [p for p in paths if p.loss > self.tolerance]
        if too_many:
            excess = sum(p.lost - self.tolerance * p.sent for p in too_many)
            return Verdict.LOST if excess > own else Verdict.TESTER_LOST
        if any(p.nmissed > p.sent * self.slack for p in paths):
            return Verdict.SLOW
        return Verdict.PASSED


def _grown(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """Return what has been added to counters, where anything has."""
    grown = {name: n - before.get(name, 0) for name, n in now.items()}
    return {name: n for name, n in grown.items() if n > 0}


def _generator(app: object) -> Generator:
    if not isinstance(app, Generator):
        raise TypeError(app)
    return app


def _checker(app: object) -> Checker:
    if not isinstance(app, Checker):
        raise TypeError(app)
    return app
