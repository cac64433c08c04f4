"""An lwAFTR between Linux stacks that know nothing of it (tests/lwaftr_lab.py)."""

import random
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from tests.hosts import Namespace, until
from tests.lwaftr_lab import (
    CLIENT,
    CLIENT_PORTS,
    CORE,
    HOME,
    LWAFTR,
    LWAFTR6,
    MTU,
    PORTS_KERNEL,
    SERVER,
    SHARED,
    TRANSLATED,
    TUNNEL,
    UNBOUND,
    Lab,
    lab,
)
from tests.talking_hosts import (
    connect,
    datagrams,
    forget,
    hops,
    path_mtu,
    ping,
    ping_well,
    transfer,
)

pytestmark = pytest.mark.need("root", "netns", "tun", "ping", "nft", "seg6")

#: Bytes of a download, and of a shorter one.
MUCH, SOME = 24 << 20, 4 << 20
IP_RECVERR = 11  # linux/in.h
#: By which a TCP learns how long its packets may be.
TOO_LONG = "drop-over-mtu-but-dont-fragment"


XDP = pytest.param((True, 1, "xdp"), id="xdp", marks=pytest.mark.need("xdp"))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((True, 1, "raw"), id="conf"),
        pytest.param((False, 2, "raw"), id="two workers"),
        XDP,
    ],
)
def net(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    """With a config, or with what the kernel knows and two workers; past the kernel."""
    has_conf, nworkers, kind = request.param
    directory = tmp_path_factory.mktemp("lwaftr")
    with lab(directory, has_conf=has_conf, nworkers=nworkers, kind=kind) as net:
        until(lambda: has_answer(net.client), "a ping of the client")
        until(lambda: has_answer(net.kernel), "a ping of the kernel")
        yield net


def has_answer(host: Namespace) -> bool:
    pings = ping(host, SERVER, "-e", str(PORTS_KERNEL.start), patience=1)
    return pings.received > 0


# -- ICMP ----------------------------------------------------------------------


def pairs(net: Lab) -> dict[str, tuple[Namespace, str, int]]:
    """Return who pings whom with which identifier, the first of some."""
    return {
        "client to server": (net.client, SERVER, 1),
        "kernel to server": (net.kernel, SERVER, PORTS_KERNEL.start + 100),
        "server to home": (net.server, SHARED, TRANSLATED.start + 100),
        "server to kernel": (net.server, SHARED, PORTS_KERNEL.start + 200),
    }


@pytest.mark.parametrize(
    "pair",
    ["client to server", "kernel to server", "server to home", "server to kernel"],
)
def test_pings(net: Lab, pair: str) -> None:
    host, to, identifier = pairs(net)[pair]
    with net.program.losing_nothing():
        for i, size in enumerate((0, 1, 56, 999, TUNNEL - 100)):
            ping_well(host, to, identifier + i, size, "-M", "do")


@pytest.mark.parametrize("pair", ["client to server", "server to home"])
def test_pings_in_fragments(net: Lab, pair: str) -> None:
    """From the internet and to it IPv4's, in the tunnel IPv6's.

    The B4's are IPv4's too, each in the tunnel by itself.
    """
    host, to, identifier = pairs(net)[pair]
    fragments = {MTU - 28: (1, 2), 3000: (3, 3), 9000: (7, 7)}  # on wire and in tunnel
    in_ipv4 = out_ipv4 = out_ipv6 = 0
    before = net.program.counters()
    with net.program.losing_nothing():
        for i, (size, (on_wire, in_tunnel)) in enumerate(fragments.items(), start=20):
            n = ping_well(host, to, identifier + i, size, "-M", "dont")
            in_ipv4 += n * (1 + (on_wire > 1))
            out_ipv4 += n * on_wire * (on_wire > 1)
            out_ipv6 += n * in_tunnel
    names = ("in-ipv4-frag-reassembled", "out-ipv4-frag", "out-ipv6-frag")
    expected = [in_ipv4, out_ipv4, out_ipv6]

    def grown() -> list[int]:
        now = net.program.counters()
        return [now[name] - before[name] for name in names]

    # Of the last pings some are still on their way.
    until(lambda: grown() == expected, f"{grown()} to be {expected}")


def test_a_ping_that_is_too_long(net: Lab) -> None:
    forget(net.server)
    options = ["-e", "1101", "-s", str(MTU - 28), "-M", "do"]
    with net.program.counting() as grown:
        text = ping(net.server, SHARED, *options, patience=1).text
    assert f"From {LWAFTR} icmp_seq=1 Frag needed and DF set (mtu = {TUNNEL})" in text
    assert grown["drop-over-mtu-but-dont-fragment-ipv4-packets"] == 1
    assert grown["out-icmpv4-error-packets"] == 1


def test_pings_of_the_lwaftr_itself(net: Lab) -> None:
    """Where its address is the kernel's, too, both answer, and it has said so."""
    for host, address in ((net.core, LWAFTR), (net.access, LWAFTR6)):
        answers = ping(host, address, number=5)
        assert answers.received >= 5
        is_said = f"the kernel has {address}, too" in net.program.said
        assert bool(answers.duplicates) is is_said
        assert is_said is not net.has_conf


# -- traceroute ----------------------------------------------------------------


@pytest.mark.need("traceroute")
@pytest.mark.parametrize("how", [("-U", "-p", "2100"), ("-T", "-p", "2100")])
def test_traceroute_from_the_internet(net: Lab, how: tuple[str, ...]) -> None:
    expected = ["198.19.0.1", LWAFTR, SHARED]
    assert hops(net.server, *how, SHARED) == expected


@pytest.mark.need("traceroute")
@pytest.mark.parametrize("how", ["-T", "-U"])
def test_traceroute_to_the_internet(net: Lab, how: str) -> None:
    """The tunnel is one hop, which the B4 counts (RFC 2473, 3.1)."""
    assert hops(net.client, how, SERVER) == [HOME, CORE, SERVER]


def test_pings_that_do_not_live_long(net: Lab) -> None:
    """Errors about them find their way by the identifier that they quote."""
    for ttl, hop in enumerate((HOME, CORE), start=1):
        text = ping(net.client, SERVER, "-t", str(ttl), patience=1).text
        assert f"From {hop} icmp_seq=1 Time to live exceeded" in text
    options = ["-e", str(TRANSLATED.start + 300), "-t", "2"]
    text = ping(net.server, SHARED, *options, patience=1).text
    assert f"From {LWAFTR} icmp_seq=1 Time to live exceeded" in text


@pytest.mark.need("traceroute")
def test_traceroute_from_b4_to_b4(net: Lab) -> None:
    assert hops(net.client, "-T", "-p", "2100", SHARED) == [HOME, LWAFTR, SHARED]


# -- TCP -----------------------------------------------------------------------


@contextmanager
def connected(net: Lab, who: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    port = CLIENT_PORTS.start
    kernel = PORTS_KERNEL.start
    ways = {
        "client to server": (net.client, net.server, (SERVER, 80), (SERVER, 80)),
        "kernel to server": (net.kernel, net.server, (SERVER, 80), (SERVER, 80)),
        "server to client": (net.server, net.client, (CLIENT, port), (SHARED, port)),
        "server to kernel": (
            net.server,
            net.kernel,
            ("", kernel),
            (SHARED, kernel),
        ),
        "client to kernel": (
            net.client,
            net.kernel,
            ("", kernel),
            (SHARED, kernel),
        ),
        "kernel to client": (net.kernel, net.client, (CLIENT, port), (SHARED, port)),
    }
    near, far = connect(*ways[who])
    with near, far:
        yield near, far


@pytest.mark.parametrize(
    "who",
    ["client to server", "kernel to server", "server to client", "server to kernel"],
)
def test_tcp(net: Lab, who: str) -> None:
    with net.program.losing_nothing(TOO_LONG), connected(net, who) as (near, far):
        transfer(near, far, MUCH)
        transfer(far, near, MUCH)


@pytest.mark.parametrize("who", ["client to kernel", "kernel to client"])
def test_tcp_between_two_b4s(net: Lab, who: str) -> None:
    """Of one address, by their ports: the lwAFTR turns it round."""
    with (
        net.program.losing_nothing(TOO_LONG),
        net.program.counting() as grown,
        connected(net, who) as (near, far),
    ):
        assert near.getpeername()[0] == far.getpeername()[0] == SHARED
        transfer(near, far, MUCH)
        transfer(far, near, SOME)
    assert grown["hairpin-ipv4-packets"] > (MUCH + SOME) // MTU
    # Of connections that were before there may be last words.
    assert grown["out-ipv4-packets"] < 20


def test_everybody_at_once(net: Lab) -> None:
    who = ("client to server", "kernel to server", "client to kernel")
    with ExitStack() as stack:
        ends = [stack.enter_context(connected(net, pair)) for pair in who]
        ways = [way for near, far in ends for way in ((near, far), (far, near))]
        with ThreadPoolExecutor(len(ways)) as pool:
            list(pool.map(lambda way: transfer(way[0], way[1], SOME), ways))


# -- path MTU ------------------------------------------------------------------


@contextmanager
def narrow(ends: list[tuple[Namespace, str]], mtu: int) -> Iterator[None]:
    """Make a link narrower; forget in the end what was learnt of it."""
    for host, name in ends:
        host.ip(f"link set {name} mtu {mtu}")
    try:
        yield
    finally:
        for host, name in ends:
            host.ip(f"link set {name} mtu {MTU}")


def test_path_mtu_of_the_tunnel(net: Lab) -> None:
    """The internet's interface is wider than the tunnel: it learns that."""
    forget(net.server, net.client)
    with connected(net, "client to server") as (near, far):
        # Larger than what the client's interface has asked for.
        transfer(far, near, SOME)
    assert path_mtu(net.server, SHARED) == TUNNEL


def test_a_narrow_link_behind_the_tunnel(net: Lab) -> None:
    """ICMPv6 of a router between the lwAFTR and the B4 becomes ICMPv4."""
    forget(net.server)
    link = [(net.access, "home"), (net.home, "eth")]
    with narrow(link, 1380), net.program.counting() as grown:
        with connected(net, "server to client") as (near, far):
            transfer(near, far, SOME)
            # What does not fit the B4's own link, it sends in fragments.
            transfer(far, near, SOME)
        assert path_mtu(net.server, SHARED) == 1340
    assert grown["out-icmpv4-error-packets"] > 0
    forget(net.server)


def test_a_narrow_link_in_the_internet(net: Lab) -> None:
    """ICMPv4 of a router there reaches the client behind the B4 that it is for."""
    forget(net.client, net.kernel)
    link = [(net.core, "server")]
    with narrow(link, 1300):
        with connected(net, "client to server") as (near, far):
            transfer(near, far, SOME)
        assert path_mtu(net.client, SERVER) == 1300
        with connected(net, "kernel to server") as (near, far):
            transfer(near, far, SOME)
    forget(net.client, net.kernel)


# -- UDP -----------------------------------------------------------------------


@pytest.mark.parametrize(("who", "most"), [("client", 9000), ("kernel", TUNNEL - 28)])
def test_udp(net: Lab, who: str, most: int) -> None:
    """Of all sizes and back: datagrams are the same, ports are the B4's.

    A node of segment routing does not put the tunnel's fragments together.
    """
    host, ports = {
        "client": (net.client, TRANSLATED),
        "kernel": (net.kernel, PORTS_KERNEL),
    }[who]
    sizes = [*range(40), *range(1380, 1480), *range(2800, 2900, 3), 5000, 9000]
    with (
        net.program.losing_nothing(),
        datagrams(host, ("", 0)) as near,
        datagrams(net.server, (SERVER, 53)) as far,
    ):
        near.connect((SERVER, 53))
        for size in (size for size in sizes if size <= most):
            data = random.Random(size).randbytes(size)  # noqa: S311 - to be repeated
            near.send(data)
            received, sender = far.recvfrom(65535)
            assert received == data
            assert sender[0] == SHARED
            assert sender[1] in ports
            far.sendto(data[::-1], sender)
            assert near.recv(65535) == data[::-1]


def test_udp_in_fragments_of_the_tunnel(net: Lab) -> None:
    """Of IPv6, as the kernel's tunnel makes them."""
    with (
        net.program.losing_nothing(),
        net.program.counting() as grown,
        datagrams(net.kernel, ("", 0)) as near,
        datagrams(net.server, (SERVER, 53)) as far,
    ):
        for size in (2000, 4000, 9000):
            data = random.Random(size).randbytes(size)  # noqa: S311 - to be repeated
            near.sendto(data, (SERVER, 53))
            assert far.recv(65535) == data
    assert grown["in-ipv6-frag-reassembled"] == 3


def test_udp_to_a_b4s_ports(net: Lab) -> None:
    """Each port's datagram goes to the B4 that has it, one address or not."""
    port = CLIENT_PORTS.start
    kernel = PORTS_KERNEL.stop - 1
    with (
        net.program.losing_nothing(),
        datagrams(net.server, (SERVER, 53)) as server,
        datagrams(net.client, (CLIENT, port)) as client,
        datagrams(net.kernel, ("", kernel)) as other,
    ):
        server.sendto(b"for the client", (SHARED, port))
        server.sendto(b"for the kernel", (SHARED, kernel))
        assert client.recvfrom(99) == (b"for the client", (SERVER, 53))
        assert other.recvfrom(99) == (b"for the kernel", (SERVER, 53))


# -- nobody's ------------------------------------------------------------------


def test_a_port_that_nobody_has(net: Lab) -> None:
    """Told by ICMP from the lwAFTR (RFC 7596, 6.2)."""
    with net.program.counting() as grown:
        with net.server.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            tcp.settimeout(10)
            with pytest.raises(OSError, match="No route to host"):
                tcp.connect((SHARED, UNBOUND))
        with datagrams(net.server, (SERVER, 53)) as udp:
            udp.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            udp.connect((SHARED, UNBOUND))
            udp.send(b"?")
            with pytest.raises(OSError, match="No route to host"):
                udp.recv(99)
    assert grown["drop-no-dest-softwire-ipv4-packets"] == 2
    assert grown["out-icmpv4-error-packets"] == 2


def test_a_ping_that_nobody_has(net: Lab) -> None:
    """In silence (RFC 7596, 8.1)."""
    with net.program.counting() as grown:
        pings = ping(net.server, SHARED, "-e", str(UNBOUND), patience=1)
    assert pings.received == 0
    assert "From" not in pings.text
    assert grown["drop-in-by-rfc7596-icmpv4-packets"] == pings.sent > 0
    assert grown["out-icmpv4-error-packets"] == 0


def test_a_port_that_nobody_listens_at(net: Lab) -> None:
    """The B4 says so itself, in its tunnel (RFC 5508, REQ-4)."""
    with net.program.losing_nothing(), datagrams(net.server, (SERVER, 53)) as udp:
        udp.connect((SHARED, PORTS_KERNEL.stop - 2))
        udp.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            udp.recv(99)


def test_a_port_of_another_b4(net: Lab) -> None:
    """Who uses one is told by ICMPv6 (RFC 7596, 6.2), which his kernel keeps."""
    with (
        net.program.counting() as grown,
        datagrams(net.kernel, ("", TRANSLATED.start)) as near,
        datagrams(net.server, (SERVER, 53)) as far,
    ):
        far.settimeout(0.3)
        near.sendto(b"?", (SERVER, 53))
        with pytest.raises(TimeoutError):
            far.recv(99)
    assert grown["drop-no-source-softwire-ipv6-packets"] == 1
    assert grown["out-icmpv6-error-packets"] == 1


# -- the end -------------------------------------------------------------------


#: What a burst of TCP may lose, and what this file has done on purpose.
EXPECTED = re.compile(
    "drop-misplaced|drop-unknown-protocol|drop-over-mtu|drop-ttl-zero|"
    "drop-no-(dest|source)-softwire|drop-in-by-rfc7596|drop-rx-kernel-ring-full"
)


def test_its_end(net: Lab) -> None:
    """All that was done to it has broken nothing, and nothing else was lost."""
    summary = net.program.end()
    assert summary["failures"] == []
    for way in summary["directions"]:
        # Pings of nobody are counted as such, too.
        each = {k: n for k, n in way["drops"].items() if "rfc7596" not in k}
        assert way["lost"] == sum(each.values())
    reasons = {reason for way in summary["directions"] for reason in way["drops"]}
    assert [reason for reason in reasons if not EXPECTED.search(reason)] == []
    assert "drop-no-dest-softwire-ipv4-packets" in reasons
