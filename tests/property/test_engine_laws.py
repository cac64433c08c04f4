"""Laws of the engine: packets are conserved, links are bounded FIFOs, plans add up."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import Forward, Join, Police, Sink, Source, Split, Tee
from snabb_py.engine.app import App
from snabb_py.engine.config import Config, LinkSpec
from snabb_py.engine.memory import Pool, new_aligned
from snabb_py.engine.plan import Network, breath_order, difference, expand
from snabb_py.errors import ConfigError

CAPACITY = lib.LINK_CAPACITY


class Packets(RuleBasedStateMachine):
    """Two workers' freelists on one pool, and two links, against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(3000, 60, 2, huge=False)
        self.freelists = [new_aligned("struct freelist *") for _ in range(2)]
        for freelist in self.freelists:
            lib.freelist_init(freelist, self.pool.pool)
        self.counters = [ffi.new("struct link_counters *") for _ in range(2)]
        self.links = [new_aligned("struct link *") for _ in range(2)]
        for link, counters in zip(self.links, self.counters, strict=True):
            link.counters = counters
            link.freelist = self.freelists[0]
        self.on_links: list[list[Any]] = [[], []]
        self.dropped = [0, 0]
        self.ours: list[Any] = []

    @rule(
        which=st.integers(0, 1),
        n=st.integers(1, 1500),
        length=st.sampled_from([0, 60, 1514, 10240, 10241, 67584]),
    )
    def alloc(self, which: int, n: int, length: int) -> None:
        """New packets are nobody else's."""
        for _ in range(n):
            packet = lib.engine_packet_alloc(self.freelists[which], length)
            if not packet:
                break
            assert packet.length == length
            assert packet.flags == packet.gso_type == 0
            assert packet.slot_class == (length > lib.PACKET_SMALL_SIZE)
            self.ours.append(packet)

    @precondition(lambda self: self.ours)
    @rule(which=st.integers(0, 1), n=st.integers(1, 2000))
    def free(self, which: int, n: int) -> None:
        for _ in range(min(n, len(self.ours))):
            lib.engine_packet_free(self.freelists[which], self.ours.pop())

    @rule(which=st.integers(0, 1))
    def flush(self, which: int) -> None:
        lib.freelist_flush(self.freelists[which])

    @precondition(lambda self: self.ours)
    @rule(n=st.integers(1, 20))
    def give_back(self, n: int) -> None:
        """As threads without a freelist do."""
        n = min(n, len(self.ours))
        packets = [self.ours.pop() for _ in range(n)]
        lib.pool_return(self.pool.pool, ffi.new("struct packet *[]", packets), n)

    @precondition(lambda self: self.ours)
    @rule(which=st.integers(0, 1), n=st.integers(1, 1200))
    def transmit(self, which: int, n: int) -> None:
        n = min(n, len(self.ours), CAPACITY)
        packets = [self.ours.pop() for _ in range(n)]
        array = ffi.new("struct packet *[]", packets)
        fits = lib.engine_link_transmit(self.links[which], array, n)
        assert fits == min(n, CAPACITY - len(self.on_links[which]))
        self.on_links[which] += packets[:fits]
        self.dropped[which] += n - fits

    @rule(which=st.integers(0, 1), n=st.integers(0, 1200))
    def receive(self, which: int, n: int) -> None:
        array = ffi.new("struct packet *[]", CAPACITY)
        count = lib.engine_link_receive(self.links[which], array, min(n, CAPACITY))
        expected, self.on_links[which] = (
            self.on_links[which][:n],
            self.on_links[which][n:],
        )
        assert list(array[0:count]) == expected
        self.ours += expected

    @rule(which=st.integers(0, 1), n=st.integers(0, 1200))
    def move(self, which: int, n: int) -> None:
        source, target = self.on_links[which], self.on_links[1 - which]
        expected = min(n, len(source), CAPACITY - len(target))
        moved = lib.engine_link_move(self.links[which], self.links[1 - which], n)
        assert moved == expected
        target += source[:moved]
        del source[:moved]

    @rule(which=st.integers(0, 1), n=st.integers(0, 1200))
    def discard(self, which: int, n: int) -> None:
        expected = min(n, len(self.on_links[which]))
        assert lib.engine_link_discard(self.links[which], n) == expected
        del self.on_links[which][:expected]

    @invariant()
    def nothing_is_lost_or_there_twice(self) -> None:
        free = self.pool.free + sum(
            f.classes[c].npackets for f in self.freelists for c in range(2)
        )
        held = [*self.ours, *self.on_links[0], *self.on_links[1]]
        assert free + len(held) == self.pool.total
        assert len({int(ffi.cast("uintptr_t", p)) for p in held}) == len(held)

    @invariant()
    def links_count_what_they_carry(self) -> None:
        for link, packets, counters, dropped in zip(
            self.links, self.on_links, self.counters, self.dropped, strict=True
        ):
            assert (link.write - link.read) % 2**32 == len(packets)
            assert counters.txpackets - counters.rxpackets == len(packets)
            queued = counters.txbytes - counters.rxbytes
            assert queued == sum(p.length for p in packets)
            assert counters.txdrop == dropped

    def teardown(self) -> None:
        self.ours.clear()
        self.pool.close()


Packets.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestPackets = Packets.TestCase

MIDDLE: list[type[App]] = [Forward, Join, Split, Tee]


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Draw chains side by side, some across two workers."""
    config = Config()
    for chain in draw(st.sets(st.integers(0, 4), min_size=1)):
        worker = st.sampled_from([0, 1])
        size = draw(st.integers(60, 62))
        config.app(f"s{chain}", Source, size=size, worker=draw(worker))
        port = f"s{chain}.tx"
        for i in range(draw(st.integers(0, 3))):
            name = f"m{chain}-{i}"
            if draw(st.booleans()):
                rate = draw(st.sampled_from([1, 2]))
                config.app(name, Police, rate_gbps=rate, worker=draw(worker))
            else:
                config.app(name, draw(st.sampled_from(MIDDLE)), worker=draw(worker))
            config.link(f"{port} -> {name}.rx")
            port = f"{name}.tx"
        config.app(f"z{chain}", Sink, worker=draw(worker))
        config.link(f"{port} -> z{chain}.rx")
    return expand(config, 2)


@given(networks(), networks())
def test_the_difference_leads_from_one_to_the_other(a: Network, b: Network) -> None:
    actions = difference(a, b)
    apps = set(a.apps) - set(actions.stop) | set(actions.start)
    assert apps == set(b.apps)
    assert (a.links - set(actions.unlink)) | set(actions.link) == b.links
    changed = {*actions.start, *actions.restart, *actions.reconfigure}
    for name in set(b.apps) - changed:
        assert a.apps[name] == b.apps[name]
    for name in actions.reconfigure:
        assert a.apps[name].cls is b.apps[name].cls
        assert b.apps[name].cls.reconfigurable
    # A link that stays has the same worker on both sides of the change.
    for link in b.links - set(actions.link):
        assert a.worker_of(link.from_app) == b.worker_of(link.from_app)


@given(networks())
def test_no_difference_to_itself(network: Network) -> None:
    assert not any(vars(difference(network, network)).values())


@given(networks())
def test_each_app_breathes_once_and_downstream(network: Network) -> None:
    for worker in (0, 1):
        order = breath_order(network, worker)
        names = network.apps_of(worker)
        assert sorted({*order.pulls, *order.pushes}) == names
        assert len(set(order.pushes)) == len(order.pushes)
        position = {name: i for i, name in enumerate(order.pushes)}
        for link in network.links:
            if link.from_app in position:
                assert position[link.from_app] < position[link.to_app]


@given(st.text(max_size=60))
def test_any_text_is_a_link_or_a_mistake(text: str) -> None:
    try:
        spec = LinkSpec.parse(text)
    except ConfigError:
        return
    assert LinkSpec.parse(str(spec)) == spec
