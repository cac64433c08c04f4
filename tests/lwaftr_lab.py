"""An lwAFTR between Linux stacks: an internet, two B4s that share an address, a client.

    server --- core --- lwaftr --- access --- home --- client
    198.19.0.2      198.18.0.0/24        \
                                          +-- kernel

Each is a network namespace; `snabb-py lwaftr run` is between `core` and `access`, which
are routers. `home` is a B4 as one has it at home: it translates what `client` sends to
its part of the shared address (NAT44), and its tunnel is lwaftr_b4.py. `kernel` is a B4
whose tunnel is the kernel's own (segment routing with one segment is IPv4 in IPv6, RFC
8986, 5.2), with super-frames and unfinished checksums; its own stack uses the ports of
its part. A third one may be a virtual machine (`Lab.adopt_guest`).

All is removed at the end.
"""

import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from snabb_py.cli.lwaftr_query import read
from snabb_py.engine.shm import runtime_directory
from snabb_py.errors import ConfigError
from tests import lwaftr_b4
from tests.hosts import SNABB, Namespace, run, until

SHARED = "192.0.2.1"
SERVER, CORE, LWAFTR = "198.19.0.2", "198.18.0.254", "198.18.0.1"
CLIENT, HOME = "10.0.0.2", "10.0.0.1"
LWAFTR6, ACCESS6 = "2001:db8::1", "2001:db8::ff"
#: Each B4's address, and the end of its tunnel at the lwAFTR.
B4_HOME, BR_HOME = "2001:db8:1::2", "2001:db8:a::1"
B4_KERNEL, BR_KERNEL = "2001:db8:2:4::4", "2001:db8:a::2"
B4_GUEST = "2001:db8:3::2"
#: PSIDs 1 to 3 of length 6 have 1024 ports each; nobody has those behind.
PORTS_KERNEL, PORTS_GUEST, UNBOUND = range(2048, 3072), range(3072, 4096), 4096
#: What `home` translates to, and what it forwards to `client` as it is.
TRANSLATED, CLIENT_PORTS = range(1024, 2000), range(2000, 2010)
#: Bytes of IPv6 packets on all links there, and of what fits a tunnel.
MTU, TUNNEL = 1500, 1460

TABLE = f"""
psid_map {{ {SHARED} {{ psid_length = 6 }} }}
br_addresses {{ {BR_HOME} {BR_KERNEL} }}
softwires {{
  {{ ipv4 = {SHARED}, psid = 1, b4 = {B4_HOME} }}
  {{ ipv4 = {SHARED}, psid = 2, b4 = {B4_KERNEL}, aftr = 1 }}
  {{ ipv4 = {SHARED}, psid = 3, b4 = {B4_GUEST} }}
}}
"""
CONF = f"""
binding_table = binding.table
aftr_ipv4_ip = {LWAFTR}
aftr_mac_inet_side = 02:00:00:00:00:04
aftr_ipv6_ip = {LWAFTR6}
aftr_mac_b4_side = 02:00:00:00:00:06
next_hop_ipv4_addr = {CORE}
next_hop_ipv6_addr = {ACCESS6}
ipv4_mtu = {MTU}, ipv6_mtu = {MTU}
icmpv4_rate_limiter_n_packets = 1000, icmpv4_rate_limiter_n_seconds = 1
icmpv6_rate_limiter_n_packets = 1000, icmpv6_rate_limiter_n_seconds = 1
hairpinning = true
"""
NAT = f"""
table ip nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat
    oifname softwire meta l4proto tcp snat to {SHARED}:1024-1999
    oifname softwire meta l4proto udp snat to {SHARED}:1024-1999
    oifname softwire meta l4proto icmp snat to {SHARED}:1024-1999
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat
    iifname softwire tcp dport 2000-2009 dnat to {CLIENT}
    iifname softwire udp dport 2000-2009 dnat to {CLIENT}
  }}
}}
"""

#: Of what hosts say to their neighbours of themselves; and sums.
NOISE = ("drop-misplaced", "drop-unknown-protocol-ipv6", "drop-all")


class Lwaftr:
    """`snabb-py lwaftr run` in a namespace, on its interfaces v4 and v6.

    Args:
        namespace: that it runs in.
        arguments: to it, beside the interfaces.
        kind: of interfaces, "raw" or "xdp".
    """

    def __init__(
        self, namespace: Namespace, *arguments: str, kind: str = "raw"
    ) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as we do
        command = [*SNABB, "lwaftr", "run", *arguments, "--v4", f"{kind}:v4"]
        options = ["--v6", f"{kind}:v6", "--json", "--interval", "3600"]
        self.process = namespace.start(*command, *options, stderr=self._said)
        self._counters = runtime_directory() / str(self.process.pid) / "counters"
        # Others may be busy with huge pages just now.
        until(self._has_begun, "lwaftr run", seconds=60)

    def _has_begun(self) -> bool:
        assert self.process.poll() is None, self.said
        with suppress(ConfigError):
            return read(self._counters) is not None
        return False

    @property
    def said(self) -> str:
        """What it has said on stderr so far."""
        self._said.seek(0)
        return self._said.read()

    def counters(self) -> Counter[str]:
        """Return its counters as they are now."""
        found = read(self._counters)
        assert found is not None
        return found

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """Give what counters have grown by, once all is over."""
        before, grown = self.counters(), Counter[str]()
        yield grown
        grown.update(self.counters() - before)

    @contextmanager
    def losing_nothing(self, *but: str) -> Iterator[None]:
        """Nothing is dropped meanwhile, but for what begins with one of these."""
        with self.counting() as grown:
            yield
        drops = {
            name: n
            for name, n in grown.items()
            if name.startswith("drop") and not name.startswith((*NOISE, *but))
        }
        assert drops == {}

    def end(self) -> dict[str, Any]:
        """End it as Ctrl-C does; return its summary."""
        self.process.send_signal(signal.SIGINT)
        out, _ = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, self.said
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        return summary

    def kill(self) -> None:
        """End it if it still runs."""
        self.process.kill()
        self.process.communicate(timeout=20)
        self._said.close()


def namespace(stack: ExitStack) -> Namespace:
    found = Namespace()
    stack.callback(found.close)
    found.ip("link set lo up")
    # Routers would else tell one host of six errors, and then of one a second.
    found("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
    return found


def link(a: Namespace, one: str, b: Namespace, other: str) -> None:
    """Join two namespaces by interfaces, which are up."""
    a.ip(f"link add {one} type veth peer name {other} netns {b.name}")
    a.ip(f"link set {one} up")
    b.ip(f"link set {other} up")


def share(b4: Namespace, owner: str, entrance: str) -> None:
    """Let packets to the shared address out: another B4 may be meant."""
    b4.ip(f"""
        route add local {SHARED} dev {owner} table 100
        rule add iif {entrance} lookup 100 pref 1
        route del local {SHARED} dev {owner} table local
    """)


class Lab:
    """All of it; see the module.

    Args:
        directory: for the config.
        has_conf: the lwAFTR's addresses are a config's, of which its kernel knows
            nothing; else they are asked of the kernel.
        nworkers: of the lwAFTR.
        kind: of its interfaces.
        stack: what is to be undone.
    """

    def __init__(
        self,
        directory: Path,
        *,
        has_conf: bool,
        nworkers: int,
        kind: str,
        stack: ExitStack,
    ) -> None:
        self.has_conf = has_conf
        self.server, self.core, self.lwaftr = (namespace(stack) for _ in range(3))
        self.access, self.home, self.kernel = (namespace(stack) for _ in range(3))
        self.client = namespace(stack)
        self._lay_internet()
        self._lay_access()
        self._lay_kernel()
        self._lay_home(stack)
        if not has_conf:
            self._give_addresses()
        table, conf = directory / "binding.table", directory / "lwaftr.conf"
        table.write_text(TABLE)
        conf.write_text(CONF)
        options = ["--conf", str(conf)] if has_conf else ["--bt", str(table)]
        options += ["--workers", str(nworkers)]
        self.program = Lwaftr(self.lwaftr, *options, kind=kind)
        stack.callback(self.program.kill)

    def _lay_internet(self) -> None:
        link(self.server, "eth", self.core, "server")
        link(self.core, "lwaftr", self.lwaftr, "v4")
        self.server.ip(f"""
            address add {SERVER}/24 dev eth
            route add default via 198.19.0.1
        """)
        self.core.ip(
            f"""
            address add 198.19.0.1/24 dev server
            address add {CORE}/24 dev lwaftr
            route add 192.0.2.0/24 via {LWAFTR}
        """
        )
        self.core("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def _lay_access(self) -> None:
        link(self.access, "lwaftr", self.lwaftr, "v6")
        link(self.access, "home", self.home, "eth")
        link(self.access, "kernel", self.kernel, "eth")
        self.access.ip(f"""
            address add {ACCESS6}/64 dev lwaftr nodad
            address add 2001:db8:1::1/64 dev home nodad
            address add 2001:db8:2::1/64 dev kernel nodad
            route add 2001:db8:a::/64 via {LWAFTR6}
            route add {B4_KERNEL} via 2001:db8:2::2
        """)
        self.access("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")

    def _lay_kernel(self) -> None:
        self.kernel.ip(f"""
            address add 2001:db8:2::2/64 dev eth nodad
            route add default via 2001:db8:2::1
            address add {SHARED}/32 dev lo
            sr tunsrc set {B4_KERNEL}
            route add default encap seg6 mode encap.red segs {BR_KERNEL} dev eth
            route add {B4_KERNEL} encap seg6local action End.DX4 nh4 {SHARED} dev eth
        """)
        share(self.kernel, "lo", "eth")
        ports = f"{PORTS_KERNEL.start} {PORTS_KERNEL.stop - 1}"
        self.kernel(
            "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1",
            f"net.ipv4.ip_local_port_range={ports}",
        )  # fmt: skip

    def _lay_home(self, stack: ExitStack) -> None:
        link(self.home, "lan", self.client, "eth")
        self.client.ip(f"""
            address add {CLIENT}/24 dev eth
            route add default via {HOME}
        """)
        self.home.ip(f"""
            address add {B4_HOME}/64 dev eth nodad
            route add default via 2001:db8:1::1
            address add {HOME}/24 dev lan
        """)
        tunnel = self.home.start(
            sys.executable, str(Path(lwaftr_b4.__file__)), B4_HOME, BR_HOME
        )
        stack.callback(tunnel.communicate)
        stack.callback(tunnel.kill)
        assert tunnel.stdout
        assert tunnel.stdout.readline() == "ready\n"
        sysctls = ("net.ipv4.ip_forward=1", "net.ipv6.conf.softwire.disable_ipv6=1")
        self.home("sysctl", "-qw", *sysctls)
        self.home.ip(f"""
            address add {SHARED}/32 dev softwire
            link set softwire mtu {TUNNEL} txqueuelen 5000 up
            route add default dev softwire src {SHARED}
        """)
        share(self.home, "softwire", "softwire")
        self.home("nft", NAT)

    def adopt_guest(self, tap: str) -> None:
        """Take the other end of a virtual machine's interface to the B4s' side."""
        run("ip", "link", "set", tap, "netns", self.access.name)
        self.access.ip(f"""
            link set {tap} name guest up
            address add 2001:db8:3::1/64 dev guest nodad
        """)

    def _give_addresses(self) -> None:
        self.lwaftr.ip(f"""
            address add {LWAFTR}/24 dev v4
            route add default via {CORE}
            address add {LWAFTR6}/64 dev v6 nodad
            route add default via {ACCESS6}
        """)


@contextmanager
def lab(
    directory: Path, *, has_conf: bool, nworkers: int, kind: str = "raw"
) -> Iterator[Lab]:
    """Make all of it; remove it in the end."""
    with ExitStack() as stack:
        yield Lab(
            directory, has_conf=has_conf, nworkers=nworkers, kind=kind, stack=stack
        )
