"""Linux's own driver, in a virtual machine of QEMU's, judges vhost-user ports.

One guest has two cards in network namespaces of their own, joined by us: what one sends
the other receives, with all offloads that the driver has agreed on.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.virtio.net_device import VhostUser
from tests.guest import Guest
from tests.harness import small_engine
from tests.requirements import need


def card_arguments(i: int, path: Path, *, queues: int, server: bool) -> list[str]:
    role = "" if server else ",server=on,wait=off"
    netdev = f"vhost-user,id=net{i},chardev=char{i},queues={queues}"
    device = f"virtio-net-pci,netdev=net{i},mac=02:00:00:00:00:0{i + 1}"
    device += f",disable-legacy=on,mq={'on' if queues > 1 else 'off'}"
    return [
        *("-chardev", f"socket,id=char{i},path={path}{role}"),
        *("-netdev", netdev, "-device", f"{device},vectors={2 * queues + 2}"),
    ]


SETUP = """
modprobe virtio_net
for i in 1 2; do
    until file=$(grep -l 02:00:00:00:00:0$i /sys/class/net/*/address); do
        sleep 0.05
    done
    name=$(basename $(dirname $file))
    ip netns add ns$i
    ip link set $name netns ns$i name eth0
    ip -n ns$i addr add 192.0.2.$i/24 dev eth0
    ip -n ns$i link set eth0 up
done
"""


def joined(paths: list[Path], queues: int, *, server: bool) -> Config:
    config = Config()
    for i, path in enumerate(paths):
        config.app(f"vm{i}", VhostUser, path=path, queues=queues, server=server)
    config.link("vm0.tx -> vm1.rx")
    config.link("vm1.tx -> vm0.rx")
    return config


@pytest.fixture
def engine() -> Iterator[Engine]:
    need("qemu")
    with small_engine() as engine:
        yield engine


def counters(engine: Engine, app: str) -> dict[str, int]:
    return {name: n for name, n in engine.apps[app].counters.items() if n}


def check_ping(guest: Guest, size: int = 56) -> None:
    ping = f"ip netns exec ns1 ping -q -c 5 -i 0.05 -W 5 -s {size} 192.0.2.2"
    assert "5 received" in guest.run(ping, 40)


@pytest.mark.need("ping", "ethtool")
@pytest.mark.parametrize("server", [True, False])
@pytest.mark.parametrize("queues", [1, 2])
def test_two_cards_of_a_guest(
    engine: Engine, tmp_path: Path, server: bool, queues: int
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    engine.commit(joined(paths, queues, server=server))
    extra = [
        word
        for i, path in enumerate(paths)
        for word in card_arguments(i, path, queues=queues, server=server)
    ]
    with Guest(extra=extra) as guest:
        guest.run(SETUP, 60)
        check_ping(guest)
        check_ping(guest, 1472)
        for number in range(queues, 0, -1):  # as many pairs as it likes
            guest.run(f"ip netns exec ns1 ethtool -L eth0 combined {number}")
            check_ping(guest)
        # The driver begins anew, as after a reboot.
        guest.run("ip -n ns1 link set eth0 down; ip -n ns1 link set eth0 up")
        check_ping(guest)
    for app in ("vm0", "vm1"):
        lost = [k for k in counters(engine, app) if k.startswith(("drop-tx", "broken"))]
        assert not lost


@pytest.mark.need("iperf3")
def test_super_frames_pass(engine: Engine, tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    engine.commit(joined(paths, 1, server=True))
    extra = [
        word
        for i, path in enumerate(paths)
        for word in card_arguments(i, path, queues=1, server=True)
    ]
    with Guest(extra=extra) as guest:
        guest.run(SETUP, 60)
        guest.run("ip netns exec ns2 iperf3 -s -D -1")
        report = guest.run("ip netns exec ns1 iperf3 -c 192.0.2.2 -n 20M -J", 120)
        assert '"error"' not in report
        found = counters(engine, "vm1")
        assert found["rx-super-frames"] > 0
        assert found["rx-bytes"] / found["rx-packets"] > 1514


@pytest.mark.need("ping")
def test_a_back_end_that_restarts(tmp_path: Path) -> None:
    # QEMU listens: the guest's driver notices nothing of a new back end.
    need("qemu")
    paths = [tmp_path / "a", tmp_path / "b"]
    extra = [
        word
        for i, path in enumerate(paths)
        for word in card_arguments(i, path, queues=1, server=False)
    ]
    with small_engine() as first:
        first.commit(joined(paths, 1, server=False))
        with Guest(extra=extra) as guest:
            guest.run(SETUP, 60)
            check_ping(guest)
            first.close()
            with small_engine() as second:
                second.commit(joined(paths, 1, server=False))
                check_ping(guest)
                found = counters(second, "vm0")
                assert not [name for name in found if "broken" in name]
