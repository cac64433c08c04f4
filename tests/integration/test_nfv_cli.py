"""`snabb-py nfv` as a user calls it; virtual machines are our own front end."""

import grp
import json
import os
import shlex
import signal
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self
from xml.etree import ElementTree as ET

import pytest

from snabb_py.cli.nfv_report import NfvReporter
from snabb_py.cli.run import some
from snabb_py.errors import ConfigError
from snabb_py.virtio.frontend import Frontend, Guest
from snabb_py.virtio.nfv_keys import KEYS
from tests import guest as linux
from tests.cable import End
from tests.captures import EndOfSenseError, frames_in
from tests.harness import Harness
from tests.hosts import until
from tests.integration.test_tap import hush, is_there
from tests.nfv_program import ROOT, Program, call, port, toml, traffic

A, B, C, OUTSIDE = (bytes.fromhex(f"52540000000{n}") for n in "abc1")
EVERYBODY = b"\xff" * 6
TAG = bytes.fromhex("8100002b")  #: VLAN 43


def frame(to: bytes, sender: bytes, n: int = 0, size: int = 100) -> bytes:
    """Return a numbered frame of a local EtherType."""
    head = to + sender + bytes.fromhex("88b5") + n.to_bytes(4, "big")
    return head.ljust(size, b"\0")


def datagram(to: bytes, sender: bytes, *, ports: tuple[int, int]) -> bytes:
    """Return a UDP datagram; IP addresses end as the others do."""
    ends = bytes([10, 0, 0, sender[-1], 10, 0, 0, to[-1]])
    ip = bytes.fromhex("450000200000000040110000") + ends
    udp = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + b"\0\x0c\0\0"
    return (to + sender + b"\x08\0" + ip + udp).ljust(60, b"\0")


def tagged(plain: bytes) -> bytes:
    return plain[:12] + TAG + plain[12:]


class Vm:
    """A virtual machine at a port's socket."""

    def __init__(self, path: Path, **arguments: Any) -> None:
        self.guest = Guest(path, **arguments)
        self.guest.start()
        self.driver = Harness(Frontend(self.guest), small=8192, large=256)
        self.received: list[bytes] = []

    def send(self, *frames: bytes) -> None:
        self.driver.send(frames)
        self.look()

    def look(self) -> list[bytes]:
        """Let the driver work; return all that has come since the beginning."""
        self.driver.breathe()
        self.received += self.driver.received()
        return self.received

    def wait_for(self, wanted: bytes) -> None:
        until(lambda: wanted in self.look(), "the frame")

    def wait_for_all(self, wanted: Sequence[bytes]) -> None:
        until(lambda: len(self.look()) >= len(wanted), "the frames")
        assert self.received == list(wanted)
        self.received = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.close()
        self.guest.close()


def vm_of(program: Program, name: str, **arguments: Any) -> Vm:
    return Vm(program.socket(name), **arguments)


def ports_of(summary: dict[str, Any]) -> dict[str, Any]:
    return {port["port"]: port for port in summary["ports"]}


def counts(summary: dict[str, Any], name: str, way: str) -> tuple[int, dict[str, int]]:
    """Return packets and drops of a port."""
    counted = ports_of(summary)[name][way]
    return counted["packets"], counted["drops"]


TWO = toml(port("A", A, vlan=43), port("B", B, vlan=43))
TRUNKS = ["sim,wire=null", "null"]


@pytest.mark.parametrize("trunk", TRUNKS)
def test_two_guests_reach_each_other(tmp_path: Path, trunk: str) -> None:
    with traffic(tmp_path, trunk, TWO) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        for first in range(0, 500, 100):
            exchange(a, b, first)
        a.send(frame(EVERYBODY, A))
        b.wait_for(frame(EVERYBODY, A))
        summary = program.end()
    for name, n in (("A", (500, 501)), ("B", (501, 500))):
        assert counts(summary, name, "to") == (n[0], {})
        assert counts(summary, name, "from") == (n[1], {})
        assert ports_of(summary)[name]["to"]["bytes"] == 100 * n[0]
    assert not (tmp_path / "A.sock").exists()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_addresses_are_a_guests_own(tmp_path: Path, trunk: str) -> None:
    text = toml(port("A", A, vlan=43), port("B", B, vlan=43), port("C", C, vlan=44))
    with traffic(tmp_path, trunk, text, nports=3) as program, ExitStack() as stack:
        a, b, c = (stack.enter_context(vm_of(program, name)) for name in "ABC")
        # To nobody, to another VLAN, from another's address: none of it arrives.
        a.send(frame(OUTSIDE, A), frame(C, A), frame(B, C), frame(B, A, 1))
        b.wait_for_all([frame(B, A, 1)])
        assert c.look() == []
        summary = program.end()
    assert counts(summary, "A", "from")[0] == 4
    assert counts(summary, "C", "to") == (0, {})
    reason = "Trunk-card drop-tx-spoofed" if "sim" in trunk else "Switch drop-source"
    assert summary["drops"][reason] == 1


def test_lines_have_what_was_lost_since_the_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """JSON has all of it each time, as the summary."""
    reporters = [NfvReporter("t", as_json=as_json) for as_json in (False, True)]

    def look(lost: int, other: int) -> dict[str, Any]:
        way = {"packets": 9, "mpps": 0.0, "gbps": 0.0}
        drops = [{"a drop-x": lost} if lost else {}, {"b txdrop": 7}]
        ways = {
            w: {**way, "drops": d} for w, d in zip(("to", "from"), drops, strict=True)
        }
        port = {"port": "A", "removed": False, "ready": True, "connected": True}
        return {"seconds": 1.0, "ports": [port | ways], "drops": {"c drop-y": other}}

    for lost, other in ((0, 3), (5, 3), (5, 3), (1005, 4)):
        for reporter in reporters:
            reporter.show(look(lost, other))
    said = [line for line in capsys.readouterr().out.splitlines() if line[0] != "{"]
    assert [line.partition("(ready)")[2].partition("(")[2] for line in said] == [
        "b txdrop: 7)", "", "a drop-x: 5)", "", "a drop-x: 1,000)", ""
    ]  # fmt: skip
    assert [line[-14:] for line in said if "lost" in line] == [
        "lost: c drop-y: 3"[-14:],
        "lost: c drop-y: 1"[-14:],
    ]


def test_workers_are_named_by_what_they_run(tmp_path: Path) -> None:
    mirrored = toml(port("A", A, mirror=str(tmp_path / "A.pcap")), port("B", B))
    with traffic(tmp_path, "sim,wire=null", mirrored) as program:
        summary = program.end()
    apps = [set(worker["apps"]) for worker in summary["workers"]]
    assert "A_NIC" in apps[0]
    assert any("Trunk-card" in names for names in apps)
    assert any(name.endswith("-file") for name in apps[-1])
    assert some(sorted(apps[0])).endswith(", ...")


def test_what_leaves_has_the_tag(tmp_path: Path) -> None:
    trunk = f"sim,wire=pcap:,{tmp_path}/out.pcap"
    with traffic(tmp_path, trunk, TWO) as program, vm_of(program, "A") as a:
        sent = [frame(OUTSIDE, A, n) for n in range(10)]
        a.send(*sent)
        with vm_of(program, "B") as b:
            a.send(frame(B, A))
            b.wait_for(frame(B, A))
            program.end()
    assert wrote(tmp_path / "out.pcap") == [tagged(plain) for plain in sent]


@pytest.fixture
def tap() -> Iterator[str]:
    name = f"n{os.getpid() % 10**6}tap"
    yield name
    assert not is_there(name)


@pytest.mark.need("root", "tun")
@pytest.mark.parametrize("trunk", ["sim,wire=tap:{}", "tap:{}"])
def test_the_wire(tmp_path: Path, tap: str, trunk: str) -> None:
    with traffic(tmp_path, trunk.format(tap), TWO) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        hush(tap)
        end = End(tap)
        # To nobody here, without the tag, with it.
        end.send(tagged(frame(C, OUTSIDE)))
        end.send(frame(A, OUTSIDE))
        end.send(tagged(frame(A, OUTSIDE, 1)))
        end.send(tagged(frame(EVERYBODY, OUTSIDE, 2)))
        a.wait_for_all([frame(A, OUTSIDE, 1), frame(EVERYBODY, OUTSIDE, 2)])
        b.wait_for_all([frame(EVERYBODY, OUTSIDE, 2)])
        a.send(frame(OUTSIDE, A, 3))
        seen: list[bytes] = []

        def has_come() -> bool:
            seen.append(end.receive()[0])
            return seen[-1] == tagged(frame(OUTSIDE, A, 3))

        until(has_come, "the frame")
        end.close()
        program.end()


def test_limits_and_filters(tmp_path: Path) -> None:
    burst = 131072
    text = toml(
        # A bit a second: what passes is the burst.
        port("A", A, tx_police=1e-9, tx_police_burst=burst, egress_filter="not ip"),
        port("B", B, ingress_filter="udp dst port 7", stateful_filter=True),
    )
    with traffic(tmp_path, "sim,wire=null", text) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        ping = datagram(B, A, ports=(5, 7))
        a.send(ping)  # is IP
        program_stops = burst - (len(ping) + 24)
        size = 1000
        npassed = program_stops // (size + 24)
        for first in range(0, 200, 100):
            a.send(*(frame(B, A, n, size) for n in range(first, first + 100)))
        # Asked, and so the answer passes; the same without having asked does not.
        b.send(datagram(A, B, ports=(9, 9)))
        a.wait_for(datagram(A, B, ports=(9, 9)))
        until(lambda: dropped(program, "B_Filter_in") == npassed, "the filter")
        summary = program.end()
    assert counts(summary, "A", "from") == (
        201,
        {"A_TxLimit drop-policed": 200 - npassed, "A_Filter_out drop-filtered": 1},
    )
    assert counts(summary, "A", "to") == (1, {})
    assert counts(summary, "B", "to") == (0, {"B_Filter_in drop-filtered": npassed})


def dropped(program: Program, app: str) -> int:
    drops = program.ask("drops")
    return sum(n for reason, n in drops.items() if reason.startswith(f"{app} "))


def test_a_reply_passes_a_stateful_filter(tmp_path: Path) -> None:
    text = toml(
        port("A", A), port("B", B, ingress_filter="udp port 7", stateful_filter=True)
    )
    with traffic(tmp_path, "null", text) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        unasked, reply = (datagram(B, A, ports=(n, 9)) for n in (7000, 53))
        b.send(datagram(A, B, ports=(9, 53)))
        a.wait_for(datagram(A, B, ports=(9, 53)))
        a.send(unasked, reply)
        b.wait_for_all([reply])
        summary = program.end()
    assert counts(summary, "B", "to")[1] == {"B_Filter_in drop-filtered": 1}


def exchange(a: Vm, b: Vm, first: int, n: int = 100) -> None:
    """Let two send to each other; all of it arrives."""
    there = [frame(B, A, i) for i in range(first, first + n)]
    back = [frame(A, B, i) for i in range(first, first + n)]
    a.send(*there)
    b.send(*back)
    b.wait_for_all(there)
    a.wait_for_all(back)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_ports_come_change_and_go(tmp_path: Path, trunk: str) -> None:
    two = [port("A", A, vlan=43), port("B", B, vlan=43)]
    with traffic(tmp_path, trunk, toml(*two)) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        exchange(a, b, 0)
        third = port("C", C, vlan=43)
        assert program.change(toml(*two, third)) == "added C"
        with vm_of(program, "C") as c:
            a.send(frame(C, A))
            c.wait_for_all([frame(C, A)])
            exchange(a, b, 100)
            third = port("C", C, vlan=43, ingress_filter="ip", tx_police=1.0)
            assert program.change(toml(*two, third)) == "changed C"
            c.send(frame(A, C))
            a.wait_for_all([frame(A, C)])
            a.send(frame(C, A, 2), datagram(C, A, ports=(1, 1)))
            c.wait_for_all([datagram(C, A, ports=(1, 1))])
            exchange(a, b, 200)
            assert program.change(toml(*two)) == "removed C"
            exchange(a, b, 300)
        assert program.change(toml(*two)) == "nothing has changed"
        exchange(a, b, 400)
        summary = program.end()
    for name, more in (("A", 1), ("B", 0)):
        assert counts(summary, name, "to") == (500 + more, {})
    assert counts(summary, "A", "from") == (503, {})
    assert counts(summary, "B", "from") == (500, {})
    gone = ports_of(summary)["C"]
    assert gone["removed"]
    assert counts(summary, "C", "to") == (2, {"C_Filter_in drop-filtered": 1})
    assert counts(summary, "C", "from") == (1, {})


def test_what_ports_have_in_turn(tmp_path: Path) -> None:
    with traffic(tmp_path, "sim,wire=null", TWO) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        exchange(a, b, 0)
        swapped = toml(port("A", B, vlan=43), port("B", A, vlan=43))
        assert program.change(swapped) == "changed A, B"
        exchange(b, a, 0)
        # Other settings of a socket: its virtual machine has to come back.
        changed = toml(port("A", B, vlan=43, queues=2), port("B", A, vlan=43))
        assert program.change(changed) == "changed A"
        with pytest.raises(ConnectionError):
            a.guest.request("get_features")
        with vm_of(program, "A") as again:
            exchange(b, again, 0)
            alone = {"port_id": "B"}
            assert program.change(toml(alone)) == "removed A; changed B"
            assert program.change(changed) == "added A; changed B"
        with vm_of(program, "A") as again:
            exchange(b, again, 0)
            assert program.change("port = []") == "removed A, B"
        program.end()


def test_more_ports_than_pools(tmp_path: Path) -> None:
    many = [port(f"x{n}", bytes([2, 0, 0, 0, 1, n]), server=True) for n in range(64)]
    two = [port("A", A, vlan=43), port("B", B, vlan=43)]
    with (
        traffic(tmp_path, "sim,wire=null", toml(*two)) as program,
        ExitStack() as stack,
    ):
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        exchange(a, b, 0)
        assert program.change(toml(*two, *many)).startswith("added x0")
        program.wait_for_line("a bridge joins the ports and sim")
        exchange(a, b, 0)
        assert program.change(toml(*two)).startswith("removed x0")
        exchange(a, b, 0)
        program.end()


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_group_is_no_virtual_machine(tmp_path: Path, trunk: str) -> None:
    """Snabb's own configs have such ports; they harm nobody."""
    group = b"\x01" + B[1:]
    text = TWO + toml(port("G", group, vlan=43))
    with traffic(tmp_path, trunk, text, nports=3) as program, ExitStack() as stack:
        a, b, g = (stack.enter_context(vm_of(program, name)) for name in "ABG")
        # From an address that is none, and from another's.
        g.send(frame(A, group), frame(A, B))
        exchange(a, b, 0)
        a.send(frame(EVERYBODY, A))
        g.wait_for_all([frame(EVERYBODY, A)])
        summary = program.end()
    assert counts(summary, "G", "from") == (2, {})
    assert counts(summary, "A", "to") == (100, {})
    assert any("is a group's address" in line for line in program.lines)


BROKEN = TWO.replace("vlan = 43", "vlan = 4300", 1)


def test_a_wrong_config_is_refused(tmp_path: Path) -> None:
    """The file is watched: it is read without being asked for."""
    with traffic(tmp_path, "sim,wire=null", TWO) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        exchange(a, b, 0)
        program.conf.write_text(BROKEN)
        line = program.wait_for_line("all runs on")
        assert f'{program.conf}:4: port "A": vlan: ' in line
        exchange(a, b, 100)
        with pytest.raises(ConfigError, match=r"ports.toml:4: port .A.: vlan: 4300"):
            program.ask("reload")
        program.conf.unlink()
        program.wait_for_line("all runs on")
        exchange(a, b, 200)
        program.conf.write_text(TWO + toml(port("C", C)))
        assert "added C" in program.wait_for_line("ports.toml")
        exchange(a, b, 300)
        # Refused by the machine: there is something in the way of the socket.
        (tmp_path / "D.sock").write_text("")
        with pytest.raises(ConfigError, match=r"D\.sock"):
            program.change(TWO + toml(port("D", OUTSIDE)))
        exchange(a, b, 400)
        summary = program.end()
    for name in "AB":
        assert counts(summary, name, "to") == (500, {})


def test_a_port_alone_has_all(tmp_path: Path) -> None:
    trunk = f"sim,wire=pcap:,{tmp_path}/out.pcap"
    text = toml({"port_id": "A", "mirror": f"{tmp_path}/mirror.pcapng"})
    with traffic(tmp_path, trunk, text, nports=1) as program, vm_of(program, "A") as a:
        sent = [frame(OUTSIDE, A), tagged(frame(OUTSIDE, B))]
        a.send(*sent)
        until(lambda: wrote(tmp_path / "out.pcap") == sent, "the wire")
        until(lambda: wrote(tmp_path / "mirror.pcapng") == sent, "the mirror")
        program.end(signal.SIGINT)


def wrote(path: Path) -> list[bytes]:
    try:
        return frames_in(path.read_bytes())
    except (OSError, EndOfSenseError):
        return []


@pytest.mark.need("root")
def test_the_group_of_the_sockets(tmp_path: Path) -> None:
    """Of new ones, of those made anew, and after a restart that finds old ones."""

    def owners(*names: str) -> set[tuple[int, int]]:
        status = [(tmp_path / f"{name}.sock").stat() for name in names]
        return {(s.st_gid, stat.S_IMODE(s.st_mode)) for s in status}

    group = ("--group", "4711")
    with traffic(tmp_path, "null", TWO, *group) as program:
        assert owners("A", "B") == {(4711, 0o660)}
        changed = TWO.replace("vlan", "queues = 2\nvlan", 1) + toml(port("C", C))
        assert program.change(changed) == "added C; changed A"
        assert owners("A", "B", "C") == {(4711, 0o660)}
        program.process.kill()
    assert owners("A", "B") == {(4711, 0o660)}
    name = grp.getgrgid(0).gr_name
    with traffic(tmp_path, "null", TWO, "--group", name) as program:
        assert owners("A", "B") == {(0, 0o660)}
        program.end()


def test_the_guest_listens(tmp_path: Path) -> None:
    guests = {name: Guest(tmp_path / f"{name}.sock", is_server=True) for name in "AB"}
    with traffic(tmp_path, "null", TWO, "--client"), ExitStack() as stack:
        for guest in guests.values():
            stack.callback(guest.close)
            guest.start()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_benchmark(tmp_path: Path, workers: str) -> None:
    arguments = ("null", TWO, "-B", "1000", "--workers", workers)
    with traffic(tmp_path, *arguments) as program, vm_of(program, "A") as a:

        def sends() -> bool:
            # What it has not taken yet lies on the link: more would not fit.
            if not a.driver.inputs[0].write - a.driver.inputs[0].read:
                a.send(*(frame(B, A, n) for n in range(50)))
            a.look()
            return program.process.poll() is not None

        until(sends, "its end")
        summary = program.finish()
    assert summary["benchmark"]["packets"] >= 1000
    assert summary["benchmark"]["mpps"] > 0


@pytest.mark.need("qemu", "ping", "iperf3")
def test_linux_in_qemu(tmp_path: Path) -> None:
    """With the arguments that `nfv qemu` prints; nfv_guests is the same at a card."""
    text = toml(
        port("A", A, vlan=43, queues=2, mtu=1400),
        port("B", B, vlan=43, disable_mrg_rxbuf=True, egress_filter="arp or ip"),
    )
    with traffic(tmp_path, "null", text) as program, ExitStack() as stack:
        guests = []
        for name, address in (("A", "10.0.0.1"), ("B", "10.0.0.2")):
            done = call("qemu", program.conf, tmp_path / "%s.sock", name)
            words = shlex.split(done.stdout.replace("\\\n", " "))
            extra = words[words.index("-chardev") :]
            guest = stack.enter_context(linux.Guest(extra=extra, memory="256M"))
            guest.run("modprobe virtio_net")
            # The second has the first's MTU by hand: there it is no port's key.
            guest.run(
                f"ip addr add {address}/24 dev eth0; ip link set eth0 up mtu 1400"
            )
            guests.append(guest)
        a, b = guests
        assert "mtu 1400" in a.run("ip link show eth0")
        assert A.hex(":") in a.run("ip link show eth0")
        assert "Combined:\t2" in a.run("ethtool -l eth0").replace(" ", "")
        a.run("ping -c 3 -i 0.2 -W 10 10.0.0.2")
        b.run("iperf3 -s -1 -D")
        a.run("iperf3 -c 10.0.0.2 -n 4M", timeout=60)
        summary = program.end()
    for name in "AB":
        drops = counts(summary, name, "from")[1]
        assert not [reason for reason in drops if "offload" in reason]
        assert counts(summary, name, "to")[0] > 0


# -- check and qemu, errors ----------------------------------------------------


def test_check_prints_the_ports() -> None:
    done = call("check", "examples/nfv.toml")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == [
        "A",
        "  mac_address            52:54:00:00:00:0a",
        "  vlan                   43",
    ]
    ports = json.loads(call("check", "examples/nfv.toml", "--json").stdout)["ports"]
    assert [port["port_id"] for port in ports] == ["A", "B"]
    assert set(ports[0]) == {name for name in KEYS if not KEYS[name].replacement}


def test_qemu_arguments(tmp_path: Path) -> None:
    conf = tmp_path / "c"
    keys = {"queues": 4, "mtu": 1400, "disable_mrg_rxbuf": True}
    conf.write_text(toml(port("A", A, **keys), port("B", B, server=False)))
    done = call("qemu", conf, tmp_path / "a,b-%s.sock", "A", "--mgmt")
    words = shlex.split(done.stdout.replace("\\\n", " "))
    options = list(zip(words[::2], words[1::2], strict=True))
    assert ("-machine", "q35,memory-backend=mem") in options
    assert ("-object", "memory-backend-memfd,id=mem,size=1G,share=on") in options
    assert (
        "-chardev",
        f"socket,id=char0,path={tmp_path}/a,,b-A.sock,reconnect-ms=1000",
    ) in options
    assert ("-netdev", "vhost-user,id=net0,chardev=char0,queues=4") in options
    card = f"virtio-net-pci,netdev=net0,mac={A.hex(':')}"
    card += ",mq=on,vectors=10,host_mtu=1400,mrg_rxbuf=off"
    assert ("-device", card) in options
    assert ("-netdev", "user,id=mgmt") in options
    assert "server=on,wait=off" in call("qemu", conf, "%s", "B").stdout
    assert "server=on,wait=off" in call("qemu", conf, "%s", "A", "--client").stdout
    done = call("qemu", conf, "a<%s", "A", "--libvirt", "--mgmt")
    domain = ET.fromstring(f"<domain>{done.stdout}</domain>")  # noqa: S314 - ours
    assert domain.find("interface[@type='vhostuser']") is not None
    source, driver = domain.find(".//source[@path]"), domain.find(".//driver")
    assert source is not None
    assert driver is not None
    assert source.get("path") == f"{ROOT}/a<A"
    assert source.get("mode") == "client"
    assert driver.get("queues") == "4"
    assert domain.find("interface[@type='user']") is not None


@pytest.mark.parametrize("arguments", [[], ["check"], ["qemu"], ["traffic"]])
def test_the_manual(arguments: list[str]) -> None:
    done = call(*arguments, "--help")
    assert done.returncode == 0
    assert "Examples:" in done.stdout
