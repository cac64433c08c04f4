"""Two guests with five cards, started once: what a test changes goes back."""

from collections.abc import Iterator

import pytest

from tests.nfv_lab import SIM, Lab, PortKeys
from tests.requirements import need

NEEDS = ("root", "netns", "tun", "qemu", "ping", "ethtool", "iperf3", "tcpdump")

#: Counters that no stock driver is to move.
WRONG = ("broken", "drop-rx-bad", "drop-rx-too", "drop-tx-bad", "drop-tx-too")


def mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


PORTS: list[PortKeys] = [
    {"port_id": "A", "mac_address": mac(0xA), "queues": 4},
    {"port_id": "B", "mac_address": [mac(0xB), mac(0x1B)]},
    {"port_id": "C", "mac_address": mac(0xC), "disable_mrg_rxbuf": True},
    {
        "port_id": "D",
        "mac_address": mac(0xD),
        "disable_indirect_desc": True,
        "server": False,
    },
    {"port_id": "E", "mac_address": mac(0xE), "mtu": 9000},
]


@pytest.fixture(scope="package")
def whole_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need(*NEEDS)
    directory = tmp_path_factory.mktemp("lab")
    with Lab(directory, SIM, PORTS, ["ABCD", "E"]) as lab:
        yield lab
        summary = lab.program.end()
    assert summary["failures"] == []


@pytest.fixture
def lab(whole_lab: Lab) -> Iterator[Lab]:
    yield whole_lab
    whole_lab.change()
    for port in whole_lab.keys:
        counted = whole_lab.counters(f"{port}_Virtio")
        wrong = {k: n for k, n in counted.items() if k.startswith(WRONG)}
        assert not wrong, (port, wrong)
