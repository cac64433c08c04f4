"""Checksums and segmentation by whoever does them: what arrives is what was sent."""

import itertools

import pytest

from tests.nfv_lab import BRIDGE, Lab

ON = {"tx": "on", "tso": "on", "gso": "on", "gro": "on"}
OFF = dict.fromkeys(ON, "off")
#: By sender and receiver.
MATRIX = list(itertools.product((ON, OFF), (ON, OFF)))
PATHS = ["A B", "C E", "E C", "A wire", "wire C"]


@pytest.mark.parametrize("path", PATHS)
def test_files_arrive(lab: Lab, path: str) -> None:
    sender, receiver = (lab[name] for name in path.split())
    try:
        for sending, receiving in MATRIX:
            sender.offload(**sending)
            receiver.offload(**receiving)
            for version in (4, 6):
                sender.transfer(receiver, receiver.address(version), 300_000)
    finally:
        sender.offload(**ON)
        receiver.offload(**ON)


@pytest.mark.parametrize("path", ["E wire", "C E", "E C", "B C"])
def test_long_frames(lab: Lab, path: str) -> None:
    """With mergeable buffers and without; E is told its MTU by the config."""
    a, b = ends = [lab[name] for name in path.split()]
    for end in ends:
        end(f"ip link set {end.device} mtu 9000")
    try:
        for version, size in ((4, 8972), (6, 8952)):
            for sending in (ON, OFF):
                a.offload(**sending)
                assert a.reaches(b.address(version), "-M do", f"-s {size}")
                a.transfer(b, b.address(version))
                b.transfer(a, a.address(version))
    finally:
        a.offload(**ON)
        for end in ends:
            mtu = lab.keys.get(end.name, {}).get("mtu", 1500)
            end(f"ip link set {end.device} mtu {mtu}")


def test_super_frames_pass_whole(lab: Lab) -> None:
    """Where no card is in between; guests that run meet another program."""
    with lab.on(BRIDGE):
        for path in ("A C", "C A", "A E", "wire D", "D wire"):
            sender, receiver = (lab[name] for name in path.split())
            assert sender.reaches(receiver.ipv4)
            for version in (4, 6):
                before = dict.fromkeys(lab.keys, 0) | super_frames(lab, "rx")
                sender.transfer(receiver, receiver.address(version))
                if receiver is not lab.wire:
                    assert (
                        super_frames(lab, "rx")[receiver.name] > before[receiver.name]
                    )
        assert set(super_frames(lab, "tx")) >= set("ACD")


def super_frames(lab: Lab, way: str) -> dict[str, int]:
    """Return how many passed, by port."""
    key = f"{way}-super-frames"
    counted = {name: lab.counters(f"{name}_Virtio") for name in lab.keys}
    return {name: counts[key] for name, counts in counted.items() if key in counts}
