"""Many frames at once come out as they do one at a time, whatever is in them."""

import random
from pathlib import Path

import pytest

from snabb_py._native import ffi, lib
from snabb_py.lwaftr.conf import read
from snabb_py.lwaftr.conf_types import LwaftrConfig
from snabb_py.lwaftr.lwaftr import Lwaftr
from snabb_py.lwaftr.made_up import MadeUpTable
from snabb_py.lwaftr.made_up_traffic import Ends, from_b4s, from_internet
from tests.harness import Harness
from tests.packet_bench import naive_checksum

TABLE = MadeUpTable(3, reserved_ports_bit_count=2)
VLAN = 5
SIZES = (64, 65, 100, 1500, 1518)
#: More than one burst of the app, and a rest that fills no vector.
NFRAMES = lib.LWAFTR_BURST + 29
#: What the common way asks about: of a frame from a B4, tag and all.
HEADERS = 4 + 14 + 40 + 20 + 8
CONFIGS = {
    "plain": {},
    "tagged": {"; mac 02": f"; vlan-tag {VLAN}; mac 02"},
    "filtered": {
        "mtu 1500;": 'mtu 1500; ingress-filter "udp"; egress-filter "less 1000";',
        "mtu 1540;": 'mtu 1540; ingress-filter "ip6"; egress-filter "less 1000";',
    },
}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest, tmp_path: Path) -> LwaftrConfig:
    text = TABLE.statements()
    for old, new in CONFIGS[request.param].items():
        text = text.replace(old, new)
    path = tmp_path / "lwaftr.conf"
    path.write_text(text)
    return read(path)


def damaged(frame: bytes, dice: random.Random) -> bytes:
    """Return a frame with some bits of its headers changed, or cut off, or longer."""
    how = dice.randrange(8)
    if how == 0:
        return frame[: dice.randrange(14, len(frame))]
    if how == 1:
        return frame + bytes(dice.randrange(1, 20))
    changed = bytearray(frame)
    for _ in range(dice.randrange(1, 3)):
        bit = dice.randrange(8 * min(HEADERS, len(frame)))
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcome(
    config: LwaftrConfig, frames: list[bytes], side: int, *, compat: bool, at_once: bool
) -> tuple[list[bytes], list[bytes], dict[str, int]]:
    """Return what leaves on both sides, and the counters."""
    queue = config.instances[0].queues[0]
    app = Lwaftr(config, queue, compat=compat, fragment_ids=(1, 1))
    runs = [frames] if at_once else [[frame] for frame in frames]
    with Harness(app) as harness:
        harness.tick()
        for run in runs:
            harness.send(run, port=side)
            while harness.breathe():
                pass
        v4, v6 = (harness.received(port=port) for port in range(2))
        return v4, v6, harness.counters


@pytest.mark.parametrize("compat", [False, True], ids=["default", "compat"])
@pytest.mark.parametrize("seed", range(12))
def test_a_burst_is_as_its_frames(
    config: LwaftrConfig, seed: int, compat: bool
) -> None:
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    side, rarity = seed % 2, (1, 4, 40)[seed % 3]
    vlan = config.instances[0].queues[0].external.vlan_tag
    ends = Ends(bytes.fromhex("020000000004"), bytes.fromhex("020000000104"), vlan)
    softwires = [dice.choice(list(TABLE.softwires())) for _ in range(NFRAMES)]
    make = from_b4s if side else from_internet
    frames = [
        damaged(frame, dice) if dice.randrange(rarity) == 0 else frame
        for frame in make(softwires, ends, SIZES)
    ]
    at_once, one_by_one = (
        outcome(config, frames, side, compat=compat, at_once=at_once)
        for at_once in (True, False)
    )
    assert at_once == one_by_one
    assert sum(map(len, at_once[:2])) > 0


@pytest.mark.parametrize("room", range(72))
def test_a_header_needs_room_in_front(tmp_path: Path, room: int) -> None:
    path = tmp_path / "lwaftr.conf"
    path.write_text(TABLE.statements())
    config = read(path)
    ends = Ends(bytes.fromhex("020000000004"), bytes.fromhex("020000000104"))
    [frame] = from_internet([next(TABLE.softwires())], ends, SIZES[:1])
    _, [expected], _ = outcome(config, [frame], 0, compat=False, at_once=True)
    with Harness(Lwaftr(config, config.instances[0].queues[0])) as harness:
        harness.send([frame])
        packet = harness.inputs[0].ring[harness.inputs[0].read % lib.LINK_CAPACITY]
        iova = packet.iova
        packet.data -= lib.PACKET_HEADROOM - room
        ffi.memmove(packet.data, frame, len(frame))
        harness.breathe()
        fits = room >= len(expected) - len(frame)
        assert harness.received(port=lib.LWAFTR_V6) == [expected] * fits
        assert harness.counters.get("drop-no-memory-packets", 0) == (not fits)
        assert packet.iova == iova


@pytest.mark.parametrize("compat", [False, True], ids=["default", "compat"])
def test_martians_do_not_reach_the_internet(config: LwaftrConfig, compat: bool) -> None:
    """Out of tunnels, to an address that no host has (RFC 1812, 5.3.7)."""
    vlan = config.instances[0].queues[0].external.vlan_tag
    ends = Ends(bytes.fromhex("020000000004"), bytes.fromhex("020000000104"), vlan)
    [frame] = from_b4s([next(TABLE.softwires())], ends, SIZES[:1])
    at = 14 + 40 + (0 if vlan is None else 4)
    frames = []
    for net in range(256):
        header = frame[at : at + 16] + bytes([net, 255, 255, 255])
        header = header[:10] + bytes(2) + header[12:]
        header = header[:10] + naive_checksum(header).to_bytes(2) + header[12:]
        frames.append(frame[:at] + header + frame[at + 20 :])
    v4, _, counters = outcome(config, frames, 1, compat=compat, at_once=True)
    martians = [0, 127, *range(224, 256)]
    expected = [n for n in range(256) if compat or n not in martians]
    assert [out[at - 40 + 16] for out in v4] == expected
    lost = counters.get("drop-martian-inner-ipv4-packets", 0)
    assert lost == (0 if compat else len(martians))
    assert counters.get("drop-all-ipv6-iface-packets", 0) == lost
