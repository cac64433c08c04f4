"""Our driver of the 82599 on a real kernel: in a guest, on cards that we serve.

As on real hardware, by VFIO behind an IOMMU and by sysfs with physical addresses; what
the driver makes of a card is compared with what the card itself has seen.
"""

import json
import random
import re
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from snabb_py._native import lib
from snabb_py.nic.eeprom import CHECKSUM_WORD, eeprom_image
from snabb_py.nic.registers import offset
from tests.guest import Job
from tests.hosts import until
from tests.machine import PATIENCE, GuestCard, Machine, machine
from tests.served_card import FORBIDDEN

pytestmark = pytest.mark.need("qemu")

#: Nobody's EtherType: no stack answers or touches it.
NOBODYS = b"\x88\xb5"
SIZES = (60, 61, 64, 65, 127, 128, 255, 256, 511, 512, 1023, 1024, 1514, 4096, 9014)
BROADCAST, ALL_HOSTS = b"\xff" * 6, bytes.fromhex("01005e000001")
FOREIGN = bytes.fromhex("020000000077")
ADDRESS = "192.0.2.1"

#: In the guest: asks the one instance that runs, when an app has counted as far.
COUNTERS = """
import time
from pathlib import Path
from snabb_py.engine.control import call
app, counter, least = sys.argv[2:]
deadline = time.monotonic() + 30
before = None
while True:
    for path in Path("/run/snabb-py").glob("*/control"):
        try:
            found = call(path, "counters")
        except SnabbError:  # of one that was killed
            pass
    # A card's registers are read one after the other: one may be of before, another
    # of after. At rest all are of the same time.
    apps = found["apps"]
    is_there = apps[app][counter] >= int(least) and apps == before
    if is_there or time.monotonic() > deadline:
        break
    before = apps
    time.sleep(0.5)
say(**found)
"""

#: In the guest: an engine with the driver's app "card" until it is ended.
ENGINE = """
import signal
from snabb_py._native import lib
from snabb_py.apps.basic import Forward
from snabb_py.engine.app import Ports
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.engine.python_app import PythonApp
from snabb_py.nic.intel82599 import Intel82599
from snabb_py.nic.intel82599_config import CardConfig
def run(config, *links):
    for link in links:
        config.link(link)
    engine = Engine(packets=4096, large_packets=64, log=lambda line: say(log=line))
    signal.signal(signal.SIGINT, lambda *_: engine.end())
    with engine:
        engine.commit(config)
        engine.main()
        card = engine.apps["card"]
        say(counters=card.counters, statistics=card.instance.statistics(),
            waits=engine.workers[0].row["waits"])
config = Config()
"""

#: All that comes goes back.
ECHO = (
    ENGINE
    + """
settings = CardConfig(promiscuous=False, mtu=1500)
config.app("card", Intel82599, card=address, config=settings)
config.app("hop", Forward)
run(config, "card.tx -> hop.rx", "hop.tx -> card.rx")
"""
)

#: Sends packets of a file with their metadata, tells those of what comes.
PEER = (
    ENGINE
    + """
class Peer(PythonApp):
    inputs, outputs = Ports("rx"), Ports("tx")
    def __init__(self):
        self.left = json.load(open("/tmp/share/packets"))
    def pull(self):
        if self.left and self.output["tx"].room:
            fields = self.left.pop(0)
            packet = self.new_packet(bytes.fromhex(fields.pop("data")))
            for name, value in fields.items():
                setattr(packet.pointer, name, value)
            self.output["tx"].transmit(packet)
    def packet(self, packet):
        say(data=bytes(packet).hex(), flags=packet.pointer.flags)
config.app("card", Intel82599, card=address)
config.app("peer", Peer)
run(config, "card.tx -> peer.rx", "peer.tx -> card.rx")
"""
)

Kind = Callable[[str], Machine]


def check(*cards: GuestCard) -> None:
    """See that a card was never asked for what it does not do."""
    for card in cards:
        counters = card.model.counters
        assert {n: counters[n] for n in FORBIDDEN} == dict.fromkeys(FORBIDDEN, 0)


@pytest.fixture(scope="module")
def vfio() -> Iterator[Machine]:
    with machine(2, iommu="pt") as it:
        yield it
        check(*it.cards)


@pytest.fixture(scope="module")
def sysfs() -> Iterator[Machine]:
    with machine(2) as it:
        yield it
        check(*it.cards)


@pytest.fixture(params=["vfio", "sysfs"])
def either(request: pytest.FixtureRequest) -> Machine:
    it: Machine = request.getfixturevalue(request.param)
    return it


def growth(card: GuestCard, before: dict[str, int]) -> dict[str, int]:
    """Return by how much a card's own counters have grown, those that have."""
    now = card.model.counters
    return {name: n - before[name] for name, n in now.items() if n != before[name]}


def start_forward(it: Machine, *words: str) -> Job:
    """Start forward between both cards; return when both have a link."""
    job = it.start_snabb("forward", *it.addresses, "--bidir", "--json", *words)
    job.wait_for("link up, 10 Gb/s", len(it.cards), PATIENCE)
    return job


def end_forward(job: Job) -> list[dict[str, Any]]:
    """End it by SIGTERM, which it survives until it is done; return its directions."""
    job.send_signal("TERM")
    summary = json.loads(job.wait(PATIENCE).splitlines()[-1])
    assert summary["program"] == "forward"
    directions: list[dict[str, Any]] = summary["directions"]
    return directions


def some_frames(seed: int) -> list[bytes]:
    """Return frames of many sizes, with and without a VLAN tag, in any order."""
    rng = random.Random(seed)  # noqa: S311 - no secrets
    tag = b"\x81\x00\x20\x05"
    frames = [
        rng.randbytes(12) + kind + NOBODYS + rng.randbytes(size - 14)
        for size in (*SIZES, *(rng.randint(60, 1514) for _ in range(60)))
        for kind in (b"", tag)
    ]
    rng.shuffle(frames)
    return frames


# ---- forward


def test_frames_pass_both_ways(either: Machine) -> None:
    names = [card.give_to_ixgbe() for card in either.cards]
    assert len(set(names)) == len(names)
    before = [card.model.counters for card in either.cards]
    job = start_forward(either, "--hops", "2")
    drivers = {"vfio-pci"} if either.guest.call("ls /dev/vfio").returncode == 0 else {}
    assert {card.driver for card in either.cards} == (drivers or {"none"})
    ways = list(zip(either.cards, reversed(either.cards), strict=True))
    sent = {card.address: some_frames(n) for n, card in enumerate(either.cards)}
    for source, target in ways:
        target.wire.rest()
        source.wire.send(*sent[source.address])
    for source, target in ways:
        frames = sent[source.address]
        assert target.wire.take(len(frames)) == frames

    # The driver has counted what the card has.
    n = len(sent[either.card.address])
    apps = either.python(COUNTERS, "b", "tx-good-packets", str(n))["apps"]
    for name, card, old in zip("ab", either.cards, before, strict=True):
        ours, its = apps[name], growth(card, old)
        assert (ours["rx-good-packets"], ours["rx-packets"]) == (n, n)
        assert (ours["tx-good-packets"], ours["tx-packets"]) == (n, n)
        assert (its["rx-packets"], its["tx-packets"]) == (n, n)
        assert ours["rx-host-packets"] == its["host-packets"] == n
        for way in "rt":
            nbytes = its[f"{way}x-bytes"]
            assert ours[f"{way}x-bytes"] == nbytes
            assert ours[f"{way}x-good-bytes"] == nbytes + 4 * n
        lost = {k: v for k, v in (ours | its).items() if k.startswith("drop") and v}
        assert lost == {}
        assert (ours["link-up"], ours["link-flaps"], ours["tx-hangs"]) == (1, 0, 0)

    other = either.refused("forward", either.addresses[1], "null")
    (process,) = either.run("cd /run/snabb-py; ls -d [0-9]*").split()
    assert other == (
        f"snabb-py: claim {either.addresses[1]}: Device or resource busy; in use by "
        f"process {process}"
    )
    directions = end_forward(job)
    assert [(d["from"], d["to"]) for d in directions] == [
        tuple(either.addresses),
        tuple(reversed(either.addresses)),
    ]
    for d in directions:
        assert (d["offered"], d["forwarded"], d["lost"]) == (n, n, 0)
        assert d["drops"] == {}
    assert [card.driver for card in either.cards] == ["ixgbe", "ixgbe"]
    check(*either.cards)


# ---- the driver by itself


def said(job: Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.output.splitlines()]


def frame(to: bytes, size: int = 60, mark: int = 0, tag: bytes = b"") -> bytes:
    head = to + FOREIGN + tag + NOBODYS + mark.to_bytes(2, "big")
    return head.ljust(size, b"\xa5")


def test_filters_lengths_interrupts_and_link(vfio: Machine) -> None:
    card, wire = vfio.card, vfio.card.wire
    card.give_to_ixgbe()
    job, _ = vfio.start(ECHO)
    job.wait_for("link up", timeout=PATIENCE)
    wire.rest()
    before = card.model.counters
    mine = card.model.mac
    tag = b"\x81\x00\x00\x05"
    passing = [
        frame(mine),
        frame(BROADCAST, 61),
        frame(ALL_HOSTS, 62),
        frame(mine, 1514),
        frame(mine, 1518, tag=tag),
    ]
    # The last one comes after all that has been decided on.
    last = frame(mine, mark=1)
    wire.send(
        passing[0],
        frame(FOREIGN),
        *passing[1:],
        frame(mine, 1515),
        frame(mine, 1519, tag=tag),
        frame(mine, 9014),
        last,
    )
    assert wire.take(len(passing) + 1) == [*passing, last]
    its = growth(card, before)
    assert its["host-packets"] == len(passing) + 1
    # A worker that sleeps is woken by the card.
    assert its["interrupts"] > 0

    card.model.plug(False)
    job.wait_for("link down", timeout=PATIENCE)
    card.model.plug(True)
    job.wait_for("link up", 2, PATIENCE)
    wire.send(last)
    assert wire.take(1) == [last]

    job.end("INT", PATIENCE)
    told = said(job)[-1]
    assert told["waits"] > 0
    statistics, counters = told["statistics"], told["counters"]
    assert statistics["link-flaps"] == 1
    assert counters["rx-packets"] == statistics["rx-host-packets"] == len(passing) + 2
    assert counters["tx-packets"] == statistics["tx-good-packets"] == len(passing) + 2
    assert statistics["rx-oversize"] == 3
    assert card.driver == "ixgbe"
    check(card)


def pseudo_sum(packet: Packet) -> int:
    """Return what a checksum field holds until the sum is finished."""
    ip = packet[IP] if IP in packet else packet[IPv6]
    l4 = packet[TCP] if TCP in packet else packet[UDP]
    data = bytes(ip)
    addresses = data[12:20] if IP in packet else data[8:40]
    total = sum(struct.unpack(f"!{len(addresses) // 2}H", addresses))
    total += (6 if TCP in packet else 17) + len(l4)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total)


def unfinished(packet: Packet, **metadata: int) -> dict[str, Any]:
    """Return a packet, and how its checksum is to be finished."""
    start = len(packet) - len(packet[TCP] if TCP in packet else packet[UDP])
    place = 16 if TCP in packet else 6
    data = bytearray(bytes(packet))
    struct.pack_into("!H", data, start + place, pseudo_sum(packet))
    return {
        "data": data.hex(),
        "flags": lib.PACKET_CSUM_PARTIAL,
        "csum_start": start,
        "csum_offset": place,
        **metadata,
    }


def is_right(data: bytes) -> bool:
    """Whether scapy would give a frame the lengths and checksums that it has."""
    packet = Ether(data)
    for layer, fields in (
        (IP, ("len", "chksum")),
        (IPv6, ("plen",)),
        (TCP, ("chksum",)),
        (UDP, ("len", "chksum")),
    ):
        for field in fields if layer in packet else ():
            packet[layer].delfieldval(field)
    return bytes(packet) == data


def test_the_card_finishes_what_packets_ask_for(vfio: Machine) -> None:
    card, wire = vfio.card, vfio.card.wire
    card.give_to_ixgbe()
    ether = Ether(src=card.model.mac.hex(":"), dst=FOREIGN.hex(":"))
    ipv4 = IP(src="198.18.0.1", dst="198.18.0.2", id=7)
    ipv6 = IPv6(src="fd00::1", dst="fd00::2")
    tcp = TCP(sport=1, dport=2, seq=1000, flags="PA")
    data = random.Random(1).randbytes(20_000)  # noqa: S311 - no secrets
    one = [
        ether / ipv4 / tcp / Raw(data[:1001]),
        ether / Dot1Q(vlan=5) / ipv4 / UDP(sport=3, dport=4) / Raw(data[:500]),
        ether / ipv6 / UDP(sport=3, dport=4) / Raw(data[:77]),
        ether / Dot1Q(vlan=5) / ipv6 / tcp / Raw(data[:1400]),
    ]
    mss = 1400
    many = [
        (ether / ipv4 / tcp / Raw(data), lib.PACKET_GSO_TCPV4),
        (ether / Dot1Q(vlan=5) / ipv6 / tcp / Raw(data[:9000]), lib.PACKET_GSO_TCPV6),
    ]
    asked = [unfinished(packet) for packet in one]
    asked += [unfinished(packet, gso_type=t, gso_size=mss) for packet, t in many]
    (vfio.guest.share / "packets").write_text(json.dumps(asked))
    pieces = [-(-len(packet[Raw]) // mss) for packet, _ in many]

    job, _ = vfio.start(PEER)
    job.wait_for("link up", timeout=PATIENCE)
    frames = wire.take(len(one) + sum(pieces))
    assert [is_right(data) for data in frames] == [True] * len(frames)
    assert frames[: len(one)] == [bytes(packet) for packet in one]
    rest = frames[len(one) :]
    for (packet, _), n in zip(many, pieces, strict=True):
        segments, rest = [Ether(data) for data in rest[:n]], rest[n:]
        whole = packet[Raw].load
        assert b"".join(s[Raw].load for s in segments) == whole
        assert [s[TCP].seq for s in segments] == [1000 + mss * i for i in range(n)]
        assert [str(s[TCP].flags) for s in segments] == ["A"] * (n - 1) + ["PA"]
        assert {len(s[Raw].load) for s in segments[:-1]} == {mss}
    assert rest == []

    # And what arrives bears the card's word for its checksum, or does not.
    good, bad = bytes(one[0]), bytearray(bytes(one[0]))
    bad[-1] ^= 1
    wire.send(good, bytes(bad))
    job.wait_for("flags", 2, PATIENCE)
    come = [(line["data"], line["flags"]) for line in said(job) if "flags" in line]
    assert come == [(good.hex(), lib.PACKET_CSUM_VALID), (bad.hex(), 0)]
    job.end("INT", PATIENCE)
    assert said(job)[-1]["counters"]["tx-packets"] == len(asked)
    check(card)


# ---- killed, pulled out


def check_ixgbe(card: GuestCard, name: str) -> None:
    """See that the kernel's driver works: somebody asks for its address."""
    look = f"ip link show {name} | grep -q LOWER_UP"
    card.guest.run(
        f"ip addr add {ADDRESS}/24 dev {name}; ip link set {name} up;"
        f"until {look}; do sleep 0.05; done",
        PATIENCE,
    )
    source = FOREIGN.hex(":")
    question = ARP(hwsrc=source, psrc="192.0.2.9", pdst=ADDRESS)
    request = bytes(Ether(src=source, dst="ff:ff:ff:ff:ff:ff") / question)

    def answers() -> bool:
        card.wire.send(request)
        found = map(Ether, card.wire.rest())
        return any(ARP in p and p[ARP].psrc == ADDRESS for p in found)

    until(answers, "ixgbe answers", PATIENCE)
    card.guest.run(f"ip link set {name} down; ip addr flush dev {name}")


def test_a_killed_program_leaves_cards_at_rest(either: Machine) -> None:
    """Of two, one that nobody touches thereafter, and one that ixgbe gets back."""
    alone, lent = either.cards
    lent.give_to_ixgbe()
    alone.take_from_drivers()
    job = start_forward(either)
    before = alone.model.counters
    traffic = [frame(FOREIGN, size) for size in (60, 1514)]
    with (
        alone.wire.sending(traffic, interval_us=1000),
        lent.wire.sending(traffic, interval_us=1000),
    ):

        def wait_for_more(counter: str, n: int) -> None:
            goals = [(c.model, c.model.counters[counter] + n) for c in either.cards]
            until(
                lambda: all(model.counters[counter] >= goal for model, goal in goals),
                f"{n} more {counter}",
                PATIENCE,
            )

        wait_for_more("tx-packets", 50)
        assert alone.is_master
        job.send_signal("KILL")
        until(lambda: not alone.is_master, "at rest", PATIENCE)
        at_rest = alone.model.counters["host-packets"]
        until(lambda: lent.driver == "ixgbe", "given back", PATIENCE)
        sent = alone.model.counters["tx-packets"]
        wait_for_more("rx-packets", 50)
        assert not alone.is_master
        counters = alone.model.counters
        assert (counters["host-packets"], counters["tx-packets"]) == (at_rest, sent)
        # Reset, so that it does not go on where it stood when somebody else makes it
        # bus master, before that one has reset it himself.
        assert counters["resets"] > before["resets"]
        alone.give_to_ixgbe()
        assert alone.is_master
        wait_for_more("rx-packets", 50)
        assert alone.model.counters["host-packets"] == at_rest
    check(*either.cards)
    for number, card in enumerate(either.cards):
        check_ixgbe(card, either.guest.interface(number, PATIENCE))
    check(*either.cards)


def test_a_card_that_is_taken_out_is_reported(sysfs: Machine) -> None:
    stays, goes = sysfs.cards
    for card in sysfs.cards:
        card.give_to_ixgbe()
    job = start_forward(sysfs)
    goes.wire.rest()
    stays.wire.send(frame(FOREIGN))
    assert goes.wire.take(1) == [frame(FOREIGN)]
    sysfs.run(f"echo 1 >/sys/bus/pci/devices/{goes.address}/remove")
    gone = f"{goes.address}: the card is gone: packets for it are dropped"
    job.wait_for(gone, timeout=PATIENCE)
    # Removed from the kernel's books alone, it would still receive.
    received = goes.model.counters["host-packets"]
    goes.wire.send(*[frame(FOREIGN)] * 3)
    assert goes.model.counters["host-packets"] == received
    stays.wire.send(*[frame(FOREIGN)] * 3)
    apps = sysfs.python(COUNTERS, "b", "drop-tx-card-gone", "3")["apps"]
    assert [apps[name]["link-up"] for name in "ab"] == [1, 0]
    there, _ = end_forward(job)
    assert (there["offered"], there["forwarded"], there["lost"]) == (4, 1, 3)
    assert there["drops"] == {"b drop-tx-card-gone": 3}
    assert job.errors.count(gone) == 1
    sysfs.run("echo 1 >/sys/bus/pci/rescan")
    until(lambda: goes.driver == "ixgbe", "back again", PATIENCE)
    assert stays.driver == "ixgbe"
    check(*sysfs.cards)


def test_a_card_that_is_to_be_taken_out_is_let_go_at_the_end(vfio: Machine) -> None:
    """By VFIO the kernel waits for the program."""
    stays, goes = vfio.cards
    for card in vfio.cards:
        card.give_to_ixgbe()
    job = start_forward(vfio)
    goes.wire.rest()
    remove = vfio.guest.start(f"echo 1 >/sys/bus/pci/devices/{goes.address}/remove")
    job.wait_for(f"{goes.address}: somebody removes or unbinds the card: that waits")
    stays.wire.send(frame(FOREIGN))
    assert goes.wire.take(1) == [frame(FOREIGN)]
    there, _ = end_forward(job)
    assert (there["offered"], there["forwarded"], there["lost"]) == (1, 1, 0)
    remove.wait(PATIENCE)
    assert [card.driver for card in vfio.cards] == ["ixgbe", "none"]
    vfio.run("echo 1 >/sys/bus/pci/rescan")
    until(lambda: goes.driver == "ixgbe", "back again", PATIENCE)
    check(*vfio.cards)


# ---- what cannot be


def test_what_cannot_be_forwarded_is_refused_in_a_line(sysfs: Machine) -> None:
    card = sysfs.card
    name = card.give_to_ixgbe()
    sysfs.run(f"ip link set {name} up")
    calls = [
        ("forward", a, "null") for a in ("7f:00.0", "00:10.0", "00:02.0", card.address)
    ]
    hint = "see: snabb-py pci list --all"
    marks = "not supported; snabb-py pci list marks what is"
    bridge, console = "bridge (1b36:000c)", "communication controller (1af4:1003)"
    use = (
        f"its interface {name} is up: ip link set {name} down, or: snabb-py pci bind "
        f"--driver none --force {card.address}"
    )
    assert sysfs.refusals(*calls) == [
        (1, f"snabb-py: PCI device 0000:7f:00.0: No such device; {hint}\n"),
        (2, f"snabb-py: PCI device 0000:00:10.0, {bridge}: {marks}\n"),
        (2, f"snabb-py: PCI device 0000:00:02.0, {console}: {marks}\n"),
        (1, f"snabb-py: claim {card.address}: Device or resource busy; {use}\n"),
    ]
    assert card.driver == "ixgbe"


def test_without_huge_pages_sysfs_says_how_to_get_them(sysfs: Machine) -> None:
    """Where they cannot be reserved, as in a container: the files are read-only."""
    card = sysfs.card
    card.give_to_ixgbe()
    pages = "/proc/sys/vm/nr_hugepages"

    def pages_wanted() -> int:
        done = sysfs.guest.call(
            "unshare -m sh -c 'mount --bind /proc/sys /proc/sys &&"
            " mount -o remount,ro,bind /proc/sys &&"
            f" {sysfs.command('forward', card.address, 'null')}'",
            PATIENCE,
        )
        found = re.fullmatch(
            r"snabb-py: find memory for a card without an IOMMU: Cannot allocate "
            r"memory; needs huge pages: sysctl vm\.nr_hugepages=(\d+)\n",
            done.stderr,
        )
        assert found, done.stderr
        assert done.returncode == 1
        return int(found[1])

    n = pages_wanted()
    sysfs.run(f"echo {n} >{pages}")
    # Those are the packets'; the card's rings want another one.
    assert pages_wanted() == n + 1
    sysfs.run(f"echo 0 >{pages}")
    assert card.driver == "ixgbe"


def test_a_damaged_eeprom_is_refused(sysfs: Machine) -> None:
    card = sysfs.card
    card.take_from_drivers()
    right = eeprom_image(card.model.mac)[CHECKSUM_WORD]

    def write(value: int) -> None:
        at = offset("EEWR")
        card.model.write(at, value << 16 | CHECKSUM_WORD << 2 | 1)
        assert card.model.read(at) & 2

    write((right + 1) & 0xFFFF)
    try:
        line = sysfs.refused("forward", card.address, "null")
    finally:
        write(right)
    assert line == (
        f"snabb-py: {card.address}: EEPROM checksum 0xbabb, not 0xbaba: Input/output "
        "error; its contents are damaged: restore them with the vendor's tool"
    )
    assert not card.is_master
    assert card.driver == "none"
    card.give_to_ixgbe()
