"""Bridge: where frames go, with which tag, and what nobody can do to it."""

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snabb_py._native import ffi, lib
from snabb_py.apps.basic import Sink, Source
from snabb_py.apps.bridge import ALL_VLANS, Bridge, BridgePort
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from tests.harness import Harness, small_engine

S = 10**9
ALL = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")


def mac(n: int) -> bytes:
    return b"\x02" + n.to_bytes(5, "big")


def text(n: int) -> str:
    return mac(n).hex(":")


def frame(to: bytes | int, source: bytes | int, tag: int | None = None) -> bytes:
    addresses = b"".join(mac(a) if isinstance(a, int) else a for a in (to, source))
    tags = b"" if tag is None else struct.pack(">HH", 0x8100, tag)
    return addresses + tags + (b"\x88\xb5" + b"payload").ljust(48, b".")


class Net(Harness):
    """A bridge of some ports, driven from outside."""

    def __init__(self, ports: int | dict[int, BridgePort], **args: Any) -> None:
        names = range(ports) if isinstance(ports, int) else ports
        described = {} if isinstance(ports, int) else ports
        pool = {key: args.pop(key) for key in ("small", "large") if key in args}
        super().__init__(Bridge(ports=self.named(described), **args), **pool)
        self.all_inputs, self.all_outputs = self.inputs, self.outputs
        self.numbers = list(names)
        for n in range(lib.BRIDGE_PORTS):
            if n not in self.numbers:
                self.struct.input[n] = self.struct.output[n] = ffi.NULL

    @staticmethod
    def named(ports: dict[int, BridgePort]) -> dict[str, BridgePort]:
        return {f"p{n}": port for n, port in ports.items()}

    def put(self, port: int, *frames: bytes, **metadata: int) -> None:
        self.inputs = self.all_inputs[port : port + 1]
        self.send(frames, **metadata)
        self.inputs = self.all_inputs

    def take(self, port: int) -> list[bytes]:
        self.outputs = self.all_outputs[port : port + 1]
        frames = self.received()
        self.outputs = self.all_outputs
        return frames

    def run(self, port: int, *frames: bytes) -> dict[int, list[bytes]]:
        """Return what comes out where, of what goes in here."""
        self.put(port, *frames)
        self.breathe(0)
        result = {n: self.take(n) for n in self.numbers}
        return {n: got for n, got in result.items() if got}

    def wait(self, seconds: float) -> None:
        self.worker.now += int(seconds * S)

    def change(self, ports: dict[int, BridgePort], **args: Any) -> None:
        """Give the bridge another description, as a hand-over does."""
        new = Bridge(ports=self.named(ports), **args)
        new.adopt(self.app)
        self.struct.config, self.struct.state = new.config, new.state
        self.app = new


@pytest.fixture
def net() -> Iterator[Net]:
    with Net(4) as net:
        yield net


# -- learning ------------------------------------------------------------------


def test_unknown_is_flooded_and_known_is_not(net: Net) -> None:
    question, answer = frame(2, 1), frame(1, 2)
    assert net.run(0, question) == {1: [question], 2: [question], 3: [question]}
    assert net.run(2, answer) == {0: [answer]}
    assert net.run(0, question) == {2: [question]}
    assert net.counters == {"flooded": 1, "learned": 2}


@pytest.mark.parametrize("to", [ALL, GROUP])
def test_groups_go_to_all_but_the_sender(net: Net, to: bytes) -> None:
    sent = frame(to, 1)
    assert net.run(3, sent, sent) == {n: [sent, sent] for n in (0, 1, 2)}


def test_copies_are_their_own(net: Net) -> None:
    sent = frame(ALL, 1)
    net.put(0, sent, flags=lib.PACKET_CSUM_PARTIAL, csum_start=14, csum_offset=2)
    net.breathe()
    packets = [net.all_outputs[n].ring[0] for n in (1, 2, 3)]
    assert len({int(ffi.cast("uintptr_t", p)) for p in packets}) == 3
    assert {(p.flags, p.csum_start) for p in packets} == {(lib.PACKET_CSUM_PARTIAL, 14)}
    packets[0].data[0] = 0
    assert [net.take(n) for n in (2, 3)] == [[sent], [sent]]


def test_never_back_where_it_came_from(net: Net) -> None:
    net.run(0, frame(9, 1), frame(9, 2))
    assert net.run(0, frame(1, 2), frame(2, 2)) == {}
    assert net.counters["drop-same-port"] == 2


def test_a_station_moves(net: Net) -> None:
    net.run(0, frame(9, 1))
    net.run(1, frame(9, 1))
    assert net.run(2, frame(1, 2)) == {1: [frame(1, 2)]}
    assert net.counters["moved"] == 1


def test_addresses_age(net: Net) -> None:
    net.run(0, frame(9, 1))
    net.wait(299)
    assert set(net.run(1, frame(1, 2))) == {0}
    net.run(0, frame(9, 1))
    net.wait(299)
    assert set(net.run(1, frame(1, 2))) == {0}, "seen again, it is young again"
    net.wait(300)
    assert set(net.run(1, frame(1, 2))) == {0, 2, 3}


def test_what_is_no_frame_to_forward(net: Net) -> None:
    assert net.run(0, frame(2, 1)[:13], b"") == {}
    assert net.run(0, frame(2, GROUP)) == {}
    for last in range(16):
        assert net.run(0, frame(bytes.fromhex("0180c20000") + bytes([last]), 1)) == {}
    assert net.counters == {
        "drop-runt": 2, "drop-source": 1, "drop-reserved": 16, "learned": 1,
    }  # fmt: skip
    assert net.run(0, frame(bytes.fromhex("0180c2000010"), 1))


def test_alone() -> None:
    with Net(1) as net:
        assert net.run(0, frame(2, 1)) == {}
        assert net.counters == {"drop-no-port": 1, "learned": 1}


def test_any_number_of_ports() -> None:
    with Net(lib.BRIDGE_PORTS) as net:
        sent = frame(ALL, 1)
        assert net.run(127, sent) == {n: [sent] for n in range(127)}
        assert net.run(0, frame(1, 2)) == {127: [frame(1, 2)]}


def test_a_full_output_holds_nobody_up(net: Net) -> None:
    net.run(1, frame(9, 2))
    for _ in range(2):
        net.put(0, *[frame(2, 1)] * 1000)
        net.put(3, *[frame(3, 4)] * 10)
        net.breathe()
    assert net.all_outputs[1].counters.txdrop >= 2000 - lib.LINK_CAPACITY
    assert len(net.take(1)) == lib.LINK_CAPACITY
    assert len(net.take(2)) == 20


def test_without_packets_to_copy_into() -> None:
    with Net(4, small=2, large=0) as net:
        assert list(net.run(0, frame(ALL, 1)).values()) == [[frame(ALL, 1)]] * 2
        assert net.counters["drop-no-packet"] == 1


def test_large_frames_are_copied(net: Net) -> None:
    large = frame(ALL, 1) + bytes(60_000)
    assert net.run(0, large) == {n: [large] for n in (1, 2, 3)}


# -- VLANs ---------------------------------------------------------------------

VLANS = {
    0: BridgePort(vlan=5),
    1: BridgePort(vlan=5),
    2: BridgePort(vlan=6),
    3: BridgePort(vlan=None, trunk=(5, 6)),
    4: BridgePort(vlan=7, trunk=ALL_VLANS[:6]),
    5: BridgePort(),
}


@pytest.fixture
def vlans() -> Iterator[Net]:
    with Net(VLANS) as net:
        yield net


def test_a_tag_outside_where_it_belongs(vlans: Net) -> None:
    plain, tagged = frame(ALL, 1), frame(ALL, 1, 5)
    everywhere = {1: [plain], 3: [tagged], 4: [tagged]}
    assert vlans.run(0, plain) == everywhere
    assert vlans.run(3, tagged) == {0: [plain], 1: [plain], 4: [tagged]}
    assert vlans.run(4, tagged) == {0: [plain], 1: [plain], 3: [tagged]}


def test_known_addresses_get_their_tags(vlans: Net) -> None:
    vlans.run(0, frame(ALL, 1))
    vlans.run(3, frame(ALL, 3, 5))
    vlans.run(4, frame(ALL, 4, 5))
    assert vlans.run(0, frame(3, 1)) == {3: [frame(3, 1, 5)]}
    assert vlans.run(3, frame(1, 3, 5)) == {0: [frame(1, 3)]}
    priority = 5 << 13 | 5
    assert vlans.run(3, frame(4, 3, priority)) == {4: [frame(4, 3, priority)]}
    assert vlans.run(3, frame(1, 3, priority)) == {0: [frame(1, 3)]}


def test_vlans_are_apart(vlans: Net) -> None:
    vlans.run(0, frame(ALL, 1))
    assert vlans.run(2, frame(1, 2)) == {3: [frame(1, 2, 6)], 4: [frame(1, 2, 6)]}
    assert vlans.run(5, frame(1, 2)) == {}, "untagged is a VLAN of its own"
    # One address in two VLANs is two stations.
    vlans.run(2, frame(ALL, 1))
    assert vlans.run(1, frame(1, 9)) == {0: [frame(1, 9)]}
    assert vlans.run(3, frame(1, 8, 6)) == {2: [frame(1, 8)]}


def test_tags_that_a_port_may_not_send(vlans: Net) -> None:
    assert vlans.run(0, frame(ALL, 1, 5)) == {}
    assert vlans.run(3, frame(ALL, 1, 7), frame(ALL, 1)) == {}
    assert vlans.run(4, frame(ALL, 1, 7)) == {}
    provider = frame(ALL, 1, 5).replace(b"\x81\x00", b"\x88\xa8")
    assert vlans.run(3, provider) == vlans.run(0, provider) == {}
    assert vlans.run(3, frame(ALL, 1, 5)[:16]) == {}
    assert vlans.counters == {"drop-vlan": 7}


def test_a_priority_is_no_vlan(vlans: Net) -> None:
    assert vlans.run(0, frame(ALL, 1, 3 << 13)) == {
        1: [untagged(frame(ALL, 1, 3 << 13))],
        3: [frame(ALL, 1, 3 << 13 | 5)],
        4: [frame(ALL, 1, 3 << 13 | 5)],
    }
    assert vlans.run(3, frame(ALL, 1, 3 << 13)) == {}


def untagged(tagged: bytes) -> bytes:
    return tagged[:12] + tagged[16:]


def test_offloads_move_with_the_tag(vlans: Net) -> None:
    vlans.put(
        0, frame(ALL, 1), flags=lib.PACKET_CSUM_PARTIAL, csum_start=34, csum_offset=16
    )
    vlans.breathe()
    assert vlans.all_outputs[1].ring[0].csum_start == 34
    assert vlans.all_outputs[3].ring[0].csum_start == 38


def test_no_room_for_a_tag(vlans: Net) -> None:
    vlans.run(3, frame(ALL, 3, 5))
    vlans.put(0, frame(3, 1))
    packet = vlans.all_inputs[0].ring[(vlans.all_inputs[0].write - 1) % 1024]
    moved = packet.data - lib.PACKET_HEADROOM
    ffi.memmove(moved, packet.data, 60)
    packet.data = moved
    vlans.breathe()
    assert vlans.take(3) == []
    assert vlans.counters["drop-no-headroom"] == 1


# -- nobody harms anybody ------------------------------------------------------


def test_a_flood_of_addresses_harms_nobody_else() -> None:
    ports = {n: BridgePort(limit=100) for n in range(3)}
    with Net(ports, room=256) as net:
        net.run(0, frame(9, 1))
        net.run(1, frame(9, 2))
        for n in range(1000, 3000, 100):
            net.run(2, *(frame(9, n + k) for k in range(100)))
        assert net.counters["learned"] == 102
        assert net.counters["unlearned-port-full"] == 1900
        assert net.run(0, frame(2, 1)) == {1: [frame(2, 1)]}
        assert net.run(1, frame(1, 2)) == {0: [frame(1, 2)]}
        assert set(net.run(1, frame(2999, 2))) == {0, 2}, "not learned, and not lost"
        assert net.app.state.learned[2] == 100


def test_a_full_table_learns_nothing_and_forgets_nobody() -> None:
    with Net(2, room=4) as net:
        for n in range(10):
            net.run(0, frame(99, n))
        assert net.counters["learned"] == 4
        assert net.counters["unlearned-table-full"] == 6
        for n in range(4):
            assert set(net.run(1, frame(n, 50))) == {0}


def test_what_has_aged_makes_room() -> None:
    with Net({0: BridgePort(limit=3), 1: BridgePort()}, room=64) as net:
        net.run(0, *(frame(99, n) for n in range(5)))
        assert net.app.state.learned[0] == 3
        net.wait(300)
        for _ in range(2):
            net.tick()
        assert net.app.state.learned[0] == 0
        net.run(0, *(frame(99, n) for n in range(5)))
        assert net.counters["learned"] == 6


def test_owned_addresses_neither_move_nor_age() -> None:
    ports = {
        0: BridgePort(macs=(text(1),)),
        1: BridgePort(),
        2: BridgePort(macs=(text(2),), check_source=True, flood=False),
    }
    with Net(ports) as net:
        assert set(net.run(1, frame(1, 5))) == {0}
        assert net.run(1, frame(5, 1)) == {}, "somebody else's"
        assert set(net.run(0, frame(9, 7))) == {1}, "unknown ones are not for port 2"
        assert set(net.run(0, frame(ALL, 7))) == {1, 2}
        assert net.run(2, frame(1, 3)) == {}, "not its own"
        assert net.run(2, frame(1, 7)) == {}, "somebody else's"
        assert set(net.run(2, frame(1, 2))) == {0}
        assert net.counters["drop-source"] == 3
        net.wait(10**6)
        net.tick()
        assert set(net.run(1, frame(1, 5))) == {0}
        assert set(net.run(1, frame(2, 5))) == {2}


# -- changes -------------------------------------------------------------------


def test_a_change_forgets_only_what_changed() -> None:
    ports = {n: BridgePort(label=f"vm{n}") for n in range(4)}
    with Net(ports) as net:
        net.run(0, frame(9, 1))
        net.run(1, frame(9, 2))
        net.change({**ports, 1: BridgePort(label="another")})
        assert set(net.run(2, frame(1, 5))) == {0}
        assert set(net.run(2, frame(2, 5))) == {0, 1, 3}
        net.change({**ports, 1: BridgePort(label="another", macs=(text(1),))})
        assert set(net.run(2, frame(1, 5))) == {1}, "owned from now on"
        assert list(net.app.state.learned[0:4]) == [0, 0, 1, 0]
        net.change(ports)
        assert set(net.run(2, frame(1, 5))) == {0, 1, 3}, "and no more"


def test_a_port_that_goes() -> None:
    with Net(3) as net:
        net.run(2, frame(9, 1))
        net.struct.output[2] = ffi.NULL
        assert net.run(0, frame(1, 2)) == {}
        assert net.counters["drop-no-port"] == 1


def test_a_vlan_that_a_port_leaves() -> None:
    ports = {n: BridgePort(vlan=5, label=f"vm{n}") for n in range(2)}
    with Net(ports) as net:
        net.run(1, frame(9, 1))
        net.change({**ports, 1: BridgePort(vlan=6, label="vm1")})
        assert net.run(0, frame(1, 2)) == {}
        assert net.counters["drop-no-port"] == 1


def test_another_room_is_a_new_table() -> None:
    with Net(2) as net:
        net.run(0, frame(9, 1))
        net.change({}, room=64)
        net.run(1, frame(1, 2))
        assert net.counters["flooded"] == 2


def network(ports: dict[str, BridgePort]) -> Config:
    config = Config()
    config.app("a", Source, frame=frame(2, 1))
    config.app("b", Source, frame=frame(1, 2))
    config.app("bridge", Bridge, ports=ports)
    config.app("sink", Sink)
    config.link("a.tx -> bridge.p0")
    config.link("b.tx -> bridge.p7")
    config.link("bridge.p0 -> sink.rx1")
    config.link("bridge.p7 -> sink.rx2")
    return config


def test_in_an_engine() -> None:
    with small_engine() as engine:
        engine.commit(network({}))
        row = engine.apps["bridge"].row
        assert row is not None
        engine.main(duration=60, done=lambda: row["learned"] == 2)
        actions = engine.commit(network({"p7": BridgePort(vlan=9, label="x")}))
        assert actions.reconfigure == ["bridge"]
        engine.main(duration=60, done=lambda: row["drop-no-port"] > 0)
        assert engine.drain()
        assert row["learned"] >= 2
        assert row["drop-no-port"] > 0
        assert engine.census().is_complete


# -- laws ----------------------------------------------------------------------

PORTS = {
    0: BridgePort(),
    1: BridgePort(vlan=1),
    2: BridgePort(vlan=1, flood=False),
    3: BridgePort(vlan=None, trunk=(1, 2)),
    4: BridgePort(vlan=2, trunk=(1,)),
    5: BridgePort(macs=(text(1),)),
    6: BridgePort(vlan=1, macs=(text(2),), check_source=True),
    7: BridgePort(),
}


class Model:
    """A bridge in a few plain lines, without limits."""

    def __init__(self) -> None:
        self.table = {
            (vlan, bytes.fromhex(m.replace(":", ""))): (n, -1)
            for n, port in PORTS.items()
            for m in port.macs
            for vlan in port.vlans
        }

    def run(self, source_port: int, sent: bytes, now: int) -> dict[int, list[bytes]]:
        port = PORTS[source_port]
        ethertype, tag = struct.unpack(">HH", sent[12:16])
        is_tagged = ethertype == 0x8100
        vlan, bare = port.vlan, sent
        if is_tagged:
            bare = untagged(sent)
            if tag & 0xFFF:
                vlan = tag & 0xFFF
                if vlan not in port.trunk:
                    return {}
        if vlan is None or not self.learn(source_port, vlan, sent[6:12], now):
            return {}
        out = {}
        for n in self.targets(vlan, sent[:6], now):
            other = PORTS[n]
            if n == source_port or vlan not in other.vlans:
                continue
            number = struct.pack(
                ">HH", 0x8100, (tag & 0xF000 if is_tagged else 0) | vlan
            )
            is_plain = other.vlan == vlan
            out[n] = [bare if is_plain else bare[:12] + number + bare[12:]]
        return out

    def learn(self, port: int, vlan: int, source: bytes, now: int) -> bool:
        owner, seen = self.table.get((vlan, source), (port, now))
        if source[0] & 1 or (seen < 0 and owner != port):
            return False
        if seen >= 0 and PORTS[port].check_source:
            return False
        self.table[vlan, source] = (port, seen if seen < 0 else now)
        return True

    def targets(self, vlan: int, to: bytes, now: int) -> Iterable[int]:
        if to[0] & 1:
            return PORTS
        port, seen = self.table.get((vlan, to), (-1, 0))
        if port < 0 or (seen >= 0 and now - seen >= 300):
            return [n for n, other in PORTS.items() if other.flood]
        return [port]


addresses = st.integers(1, 6).map(mac)
steps = st.tuples(
    st.sampled_from(sorted(PORTS)),
    addresses | st.sampled_from([ALL, GROUP]),
    addresses,
    st.none() | st.sampled_from([0, 1, 2, 3, 0x6001, 0xA000]),
    st.sampled_from([0, 1, 100, 299, 300]),
)


@given(st.lists(steps, max_size=60))
def test_as_the_model(steps: list[tuple[int, bytes, bytes, int | None, int]]) -> None:
    model, now = Model(), 0
    with Net(PORTS, small=512, large=0) as net:
        for port, to, source, tag, wait in steps:
            now += wait
            net.wait(wait)
            sent = frame(to, source, tag)
            assert net.run(port, sent) == model.run(port, sent, now)
            net.tick()


@given(st.lists(st.tuples(st.sampled_from(sorted(PORTS)), st.binary(max_size=40))))
def test_any_bytes_are_harmless(sent: list[tuple[int, bytes]]) -> None:
    """All packets are back at the end, which the harness sees to."""
    with Net(PORTS, small=512, large=0) as net:
        for port, data in sent:
            got = net.run(port, data)
            assert port not in got
            for frames in got.values():
                assert [len(f) - len(data) in {-4, 0, 4} for f in frames] == [True]


# -- arguments -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        ({"vlan": 4095}, "vlan: 4095 is not within"),
        ({"trunk": (0,)}, "trunk: 0 is not within"),
        ({"vlan": 5, "trunk": (5,)}, "vlan: 5 is in the trunk"),
        ({"vlan": None}, "without a VLAN"),
        ({"limit": -1}, "limit: -1 is not within"),
    ],
)
def test_a_port_that_cannot_be(args: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        BridgePort(**args)


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        ({"ports": {"x": BridgePort()}}, 'there is no "x", but p0 to p127'),
        ({"age_s": 0}, "age_s: 0 is not within"),
        ({"room": 3}, "room: 3 is not within"),
        ({"ports": {"p1": BridgePort(macs=("1:2",))}}, '"1:2" is no address'),
        ({"ports": {"p1": BridgePort(macs=(GROUP.hex(":"),))}}, "no address of a stat"),
        (
            {"ports": {n: BridgePort(macs=(text(1),)) for n in ("p1", "p2")}},
            "p1 and p2 own the same address",
        ),
        (
            {"ports": {"p1": BridgePort(trunk=ALL_VLANS, macs=(text(1), text(2)))}},
            "room: 16384 is too little for 8190 addresses",
        ),
    ],
)
def test_a_bridge_that_cannot_be(args: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Bridge(**args)


def test_counters_agree() -> None:
    assert len(Bridge.counters) == lib.BRIDGE_NCOUNTERS
