"""The lwAFTR in C beside the model: the same frames in, the same out, and counters.

    with Comparison(settings, compat=False) as comparison:
        comparison.feed([(4, frame), (6, frame)])

Between two frames of one side the order is kept, so arrivals go to the app in runs of
one side each, a breath a run.
"""

import itertools
from collections import Counter
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from snabb_py._native import lib
from snabb_py.lwaftr.binding_table import BindingTable
from snabb_py.lwaftr.binding_table import Softwire as Row
from snabb_py.lwaftr.conf_types import (
    ErrorRateLimiting,
    ExternalInterface,
    Instance,
    InternalInterface,
    LwaftrConfig,
    Queue,
    QueueInterface,
    Reassembly,
)
from snabb_py.lwaftr.counters import NAMES
from snabb_py.lwaftr.lwaftr import Lwaftr
from tests.harness import BEGINNING, Harness
from tests.lwaftr_model import Model
from tests.lwaftr_model.icmp import LONGEST_IPV4
from tests.lwaftr_model.settings import Settings, Side
from tests.lwaftr_traffic import Arrival, Choices, Traffic, scenario

#: What the model counts: all of Snabb's, and of ours what adds up with them.
COMPARED = (
    frozenset(NAMES[: lib.LWAFTR_NSNABB_COUNTERS])
    | {f"drop-{which}-frag-unreassembled" for which in ("ipv4", "ipv6", "inner-ipv4")}
    | {"drop-martian-inner-ipv4-packets"}
)
PORTS = {4: 0, 6: 1}

#: Steps of time, in seconds; as binary fractions they are exact for both.
STEP, LEAP = 1 / 512, 61.0
#: After a leap: the app lets fragments go little by little.
TICKS = 300
#: Frames in a breath, and bytes: what comes of them has to fit the links, cut up small.
MOST_FRAMES, MOST_BYTES = 24, 24000
#: Bytes of a frame in a report.
MOST_SHOWN = 150


class DisagreementError(AssertionError):
    """The app does not do what the model does."""


def queue_interface(side: Side, address: IPv4Address | IPv6Address) -> QueueInterface:
    hop = type(address)(side.next_hop) if side.next_hop else None
    return QueueInterface(address, side.mac, hop, side.next_hop_mac, side.vlan)


def config_of(settings: Settings, *, compat: bool) -> LwaftrConfig:
    """Return what the app is configured with, of the model's settings."""
    external, internal = (
        {
            "mtu": side.mtu,
            "allow_incoming_icmp": side.allow_icmp,
            "generate_icmp_errors": side.generate_errors,
            "error_rate_limiting": ErrorRateLimiting(*side.rate),
            "reassembly": Reassembly(side.max_fragments, side.max_packets),
        }
        for side in (settings.external, settings.internal)
    )
    rows = [
        Row(IPv4Address(s.ipv4), s.psid, IPv6Address(s.b4), IPv6Address(s.br), *parts)
        for s in settings.softwires
        for parts in [(s.psid_length, s.offset)]
    ]
    queue = Queue(
        0,
        queue_interface(settings.external, IPv4Address(settings.external.ip)),
        queue_interface(settings.internal, IPv6Address(settings.internal.ip)),
    )
    return LwaftrConfig(
        BindingTable(rows, compat=compat),
        (Instance("", None, (queue,)),),
        ExternalInterface(**external),  # type: ignore[arg-type]
        InternalInterface(
            **internal,  # type: ignore[arg-type]
            flow_label=settings.flow_label,
            hairpinning=settings.hairpinning,
        ),
    )


class Comparison:
    """An app and a model that are fed the same.

    Attributes:
        model: whose `out4` and `out6` are what came of the last arrivals.
        counters: all of the app's that moved for the last arrivals, by how much.
    """

    def __init__(self, settings: Settings, *, compat: bool) -> None:
        self.model = Model(settings, compat=compat)
        config = config_of(settings, compat=compat)
        queue = config.instances[0].queues[0]
        app = Lwaftr(config, queue, compat=compat, fragment_ids=settings.ids)
        self.harness = Harness(app)
        self.before: Counter[str] = Counter()
        self.counters: Counter[str] = Counter()
        self.now = 0.0
        self.advance(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.harness.__exit__(kind, error, trace)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.harness.worker.now = BEGINNING + int(self.now * 10**9)
        self.forget()
        self.model.tick(self.now)
        for _ in range(TICKS if seconds > STEP else 1):
            self.harness.tick()
        self.compare([], in_order=False)

    def forget(self) -> None:
        self.model.out4.clear()
        self.model.out6.clear()

    def feed(self, arrivals: list[Arrival]) -> None:
        """Take frames to both.

        Raises:
            DisagreementError: what comes of them is not the same.
        """
        self.forget()
        for side, run in itertools.groupby(arrivals, lambda arrival: arrival[0]):
            frames = [frame for _, frame in run]
            take = self.model.from_internet if side == 4 else self.model.from_b4
            for frame in frames:
                take(frame)
            self.harness.send(frames, port=PORTS[side])
            while self.harness.breathe(0):
                pass
        self.compare(arrivals)

    def compare(self, arrivals: list[Arrival], *, in_order: bool = True) -> None:
        """Hold what came out against what the model says.

        Args:
            arrivals: what is reported to have been fed.
            in_order: else frames may come in any order: of datagrams whose time is
                over at once, none is the first.
        """
        order = list[bytes] if in_order else sorted
        frames = [
            (order(self.model.out4), order(self.harness.received(0))),
            (order(self.model.out6), order(self.harness.received(1))),
        ]
        total = Counter(self.harness.counters)
        self.counters = total - self.before
        self.before = total
        theirs = {name: n for name, n in self.model.counters.items() if n}
        ours = {n: v for n, v in total.items() if n in COMPARED and not is_memory(n)}
        if any(model != app for model, app in frames) or theirs != ours:
            told = report(arrivals, frames, (theirs, ours))
            raise DisagreementError(f"{told}\nmoved: {dict(self.counters)}")


def is_memory(name: str) -> bool:
    return name.startswith("memuse-")


def shown(frame: bytes) -> str:
    """Return a frame in hexadecimal: what tells frames apart is near the beginning."""
    cut = f"... {len(frame)} bytes" if len(frame) > MOST_SHOWN else ""
    return frame[:MOST_SHOWN].hex() + cut


def report(
    arrivals: list[Arrival],
    frames: list[tuple[list[bytes], list[bytes]]],
    counters: tuple[dict[str, int], dict[str, int]],
) -> str:
    """Return what a disagreement is about; the model's part is the first of each."""
    lines = [f"in  v{side}       {shown(frame)}" for side, frame in arrivals]
    for side, (model, app) in zip((4, 6), frames, strict=True):
        pairs = enumerate(itertools.zip_longest(model, app, fillvalue=b""))
        for i, (wanted, found) in pairs:
            if wanted != found:
                lines.append(f"out v{side} model {shown(wanted)}")
                lines.append(f"out v{side} app   {shown(found)}")
                lines.append(f"  no. {i} of {len(model)} and {len(app)}")
                break
    theirs, ours = counters
    for name in sorted(theirs.keys() | ours.keys()):
        counts = theirs.get(name, 0), ours.get(name, 0)
        if counts[0] != counts[1]:
            lines.append("{}: model {}, app {}".format(name, *counts))
    return "\n".join(lines)


class Episode:
    """A random scenario and random traffic through it.

    Args:
        choices: where chance comes from.
        compat: as Snabb has it.
    """

    def __init__(self, choices: Choices, *, compat: bool) -> None:
        self.choices = choices
        self.compat = compat
        self.settings = scenario(choices)
        self.traffic = Traffic(self.settings, choices, compat=compat)
        self.kinds: Counter[str] = Counter()
        #: What was fed, and seconds that passed: enough to do all of it again.
        self.history: list[list[Arrival] | float] = []

    def burst(self) -> list[Arrival]:
        """Return frames of a few items, mixed up but for their order on a side."""
        items: list[list[Arrival]] = []
        n = size = 0
        for _ in range(self.choices.number(1, 12)):
            kind, arrivals = self.traffic.item()
            n += len(arrivals)
            size += sum(len(frame) for _, frame in arrivals)
            if items and (n > MOST_FRAMES or size > MOST_BYTES):
                break
            items.append(arrivals)
            self.kinds[kind] += len(arrivals)
        mixed: list[Arrival] = []
        items = [arrivals for arrivals in items if arrivals]
        while items:
            at = self.choices.number(0, len(items) - 1)
            mixed.append(items[at].pop(0))
            if not items[at]:
                del items[at]
        return sorted(mixed, key=lambda arrival: arrival[0])

    def pause(self) -> float:
        """Return how long nothing comes: at times so long that fragments are let go.

        Not where next hops are asked for: when that is done again is tested elsewhere.
        Nor where it depends on the order what errors they bring: on a limit, or on the
        ids of the next fragments.
        """
        sides = self.settings.external, self.settings.internal
        may_leap = all(side.next_hop_mac and side.rate[0] > 3 for side in sides)
        may_leap = may_leap and sides[0].mtu >= LONGEST_IPV4
        return LEAP if may_leap and self.choices.number(0, 29) == 29 else STEP

    def run(self, comparison: Comparison, frames: int) -> None:
        """Feed at least so many frames."""
        while sum(self.kinds.values()) < frames:
            pause, burst = self.pause(), self.burst()
            self.history += [pause, burst]
            comparison.advance(pause)
            comparison.feed(burst)

    def first_disagreement(self) -> str:
        """Do all of it again, a frame at a time; return what is reported first."""
        with Comparison(self.settings, compat=self.compat) as comparison:
            try:
                for event in self.history:
                    if isinstance(event, float):
                        comparison.advance(event)
                        continue
                    for arrival in event:
                        comparison.feed([arrival])
            except DisagreementError as error:
                return str(error)
        return "frame by frame they agree"
