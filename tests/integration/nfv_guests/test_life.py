"""Guests that come and go, and change their minds, with packets under way."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.hosts import until
from tests.nfv_lab import BRIDGE, Card, Lab

FLOWS = 64


@contextmanager
def under_load(lab: Lab, name: str) -> Iterator[None]:
    """Send to a guest all the time, whether it is there or not."""
    with lab.wire.running(f"ping -q -i 0.005 -s 1400 {lab[name].ipv4}"):
        sent = lab.wire.count("tx_packets")
        until(lambda: lab.wire.count("tx_packets") > sent + 100, "the load")
        yield


def busy_queues(card: Card) -> tuple[list[int], list[int]]:
    """Return interrupts of each queue that receives, packets of each that sends."""
    device = "$(basename $(readlink /sys/class/net/eth0/device))"
    interrupts = card(f"grep {device}-input /proc/interrupts").splitlines()
    received = {
        line.split("-input.")[1]: sum(int(n) for n in line.split()[1:] if n.isdigit())
        for line in interrupts
    }
    queues = card("tc -s qdisc show dev eth0")
    sent = dict(re.findall(r"parent :(\d+) [^:]*?Sent \d+ bytes (\d+) pkt", queues))
    return (
        [received[k] for k in sorted(received)],
        [int(sent[k]) for k in sorted(sent)],
    )


def send_flows(lab: Lab, name: str) -> None:
    """Send a few packets of many flows to a port, and from it."""
    card = lab.cards[name]
    for end, to in ((lab.wire, card), (card, lab.wire)):
        ports = f"$(seq 7000 {7000 + FLOWS})"
        loop = f"for p in {ports}; do echo >/dev/udp/{to.ipv4}/$p; done"
        end(f"bash -c '{loop}'")


def test_all_queues_work(lab: Lab) -> None:
    """Any number of them, changed while packets come and go."""
    card = lab.cards["A"]
    load = (
        f"iperf3 -c {lab.wire.ipv4} -p {lab.wire.serve()} -P 2 --bidir -b 10M -t 3600"
    )
    with card.running(load):
        for count in (1, 3, 2, 4):
            card(f"ethtool -L eth0 combined {count}")
            before = busy_queues(card)

            def all_carry(n: int = count, old: Any = before) -> bool:
                send_flows(lab, "A")
                return all(
                    a > b
                    for counts in zip(busy_queues(card), old, strict=True)
                    for a, b in list(zip(*counts, strict=False))[:n]
                )

            until(all_carry, f"packets in all of {count} queues")
            assert lab.wire.reaches(card.ipv4)
    card.transfer(lab.wire, lab.wire.ipv4)


def test_the_driver_is_unloaded(lab: Lab) -> None:
    card = lab.cards["A"]
    with under_load(lab, "A"):
        for _ in range(2):
            card.guest.run("modprobe -r virtio_net")
            until(lambda: not is_ready(lab, "A"), "that it has gone")
            lab.furnish(card.guest)
            assert card.reaches(lab.wire.ipv4)
    for name in "ABCD":
        lab[name].transfer(lab.wire, lab.wire.ipv4)


def is_ready(lab: Lab, name: str) -> bool:
    """Whether a port has a guest: packets to it are not dropped for lack of one."""
    down = lab.counters(f"{name}_Virtio").get("drop-rx-down", 0)
    lab.wire(f"ping -q -c 3 -i 0.1 -W 0.2 {lab[name].ipv4} || true")
    return lab.counters(f"{name}_Virtio").get("drop-rx-down", 0) == down


def test_the_link_goes_down_and_up(lab: Lab) -> None:
    card = lab.cards["B"]
    with under_load(lab, "B"):
        for _ in range(5):
            card("ip link set eth0 down")
            card("ip link set eth0 up")
            card(f"ip addr replace {card.ipv6}/64 dev eth0 nodad")
    assert lab.wire.reaches(card.ipv4)
    assert card.reaches(lab.wire.ipv6)
    card.transfer(lab.wire, lab.wire.ipv4)


def test_another_program_takes_over(lab: Lab) -> None:
    """Drivers notice nothing, whoever of the two listens."""
    for trunk in (BRIDGE,):
        with lab.on(trunk):
            for a, b in itertools.pairwise("ABCDEA"):
                assert lab[a].reaches(lab[b].ipv4)
    for a, b in itertools.pairwise("ABCDEA"):
        assert lab[a].reaches(lab[b].ipv4)


@pytest.mark.parametrize(("name", "is_told"), [("A", True), ("E", False)])
def test_a_guest_reboots(lab: Lab, name: str, is_told: bool) -> None:
    """Told by its kernel, or reset, which nobody tells the driver."""
    card = lab.cards[name]
    with under_load(lab, name):
        card.guest.reboot(is_told=is_told)
        lab.furnish(card.guest)
        assert card.reaches(lab.wire.ipv4)
    card.transfer(lab.wire, lab.wire.ipv4)
    lab["B"].transfer(lab["E"], lab["E"].ipv6)
