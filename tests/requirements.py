"""What tests need of the machine, by name.

A test says so by `@pytest.mark.need("root", "netns")`, a fixture by `need("tun")`. On a
machine that lacks it the test is skipped, and the reason says what is missing. Where
`SNABB_REQUIRE` lists the name (`SNABB_REQUIRE=root,netns`), the test fails instead, and
so does a test skipped for any other reason: a machine set up to run everything cannot
quietly run less.
"""

import ctypes
import functools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from tests import guest

FREE_HUGEPAGES = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
# Where ip, tcpdump and ethtool are, whatever the user's PATH.
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


class Requirement(NamedTuple):
    """Something a machine has or lacks."""

    is_met: Callable[[], bool]
    missing: str


class Unmet(pytest.skip.Exception):  # type: ignore[misc,name-defined]
    """Skip of a test that lacks what it said it needs."""

    # pytest leaves this name away where it lists the reasons.
    __module__ = "builtins"
    __qualname__ = "Skipped"


def is_root() -> bool:
    return os.geteuid() == 0


def has_netns() -> bool:
    # Tried, not derived: containers refuse it to root, other machines grant it to all.
    trial = subprocess.run(
        ["unshare", "--net", "true"], check=False, capture_output=True
    )
    return trial.returncode == 0


def has_hugepages() -> bool:
    return FREE_HUGEPAGES.exists() and int(FREE_HUGEPAGES.read_text()) > 0


def has_tun() -> bool:
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError:
        return False
    return True


def has_vlan() -> bool:
    add = "ip link add d type dummy && ip link add link d name d.7 type vlan id 7"
    trial = subprocess.run(
        ["unshare", "--net", "sh", "-c", add],
        check=False,
        capture_output=True,
        env={**os.environ, "PATH": SEARCH_PATH},
    )
    return trial.returncode == 0


def has_tbf() -> bool:
    add = "tc qdisc add dev lo root tbf rate 1kbit burst 9k limit 9k"
    trial = subprocess.run(
        ["unshare", "--net", *add.split()],
        check=False,
        capture_output=True,
        env={**os.environ, "PATH": SEARCH_PATH},
    )
    return trial.returncode == 0


def has_seg6() -> bool:
    add = "ip link set lo up && ip route add 192.0.2.0/24 encap seg6 mode encap.red "
    trial = subprocess.run(
        ["unshare", "--net", "sh", "-c", f"{add} segs fd00::1 dev lo"],
        check=False,
        capture_output=True,
        env={**os.environ, "PATH": SEARCH_PATH},
    )
    return trial.returncode == 0


def has_nft() -> bool:
    trial = (
        subprocess.run(
            ["unshare", "--net", "nft", "add table ip nat"],
            check=False,
            capture_output=True,
            env={**os.environ, "PATH": SEARCH_PATH},
        )
        if shutil.which("nft", path=SEARCH_PATH)
        else None
    )
    return trial is not None and trial.returncode == 0


def has_libpcap() -> bool:
    try:
        ctypes.CDLL("libpcap.so.0.8")
    except OSError:
        return False
    return True


def has_packing() -> bool:
    if not (shutil.which("zstd") and shutil.which("cc")):
        return False
    library = subprocess.run(
        ["cc", "-print-file-name=libzstd.a"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return Path(library.strip()).is_absolute()


def has_xdp() -> bool:
    try:
        socket.socket(44, socket.SOCK_RAW).close()  # AF_XDP
    except OSError:
        return False
    return True


def has_two_cpus() -> bool:
    return len(os.sched_getaffinity(0)) > 1


def is_public() -> bool:
    # Tried, not derived: modes of directories do not tell all.
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    trial = subprocess.run(
        [*nobody, sys.executable, "-c", "import snabb_py.cli.forward"],
        check=False,
        capture_output=True,
    )
    return trial.returncode == 0


def program(name: str, package: str) -> Requirement:
    """Return the requirement that a program of a Debian package is there."""
    return Requirement(
        lambda: shutil.which(name, path=SEARCH_PATH) is not None,
        f"the program {name} (package {package})",
    )


REQUIREMENTS = {
    "dist": Requirement(
        has_packing, "zstd, to pack and static (packages zstd and libzstd-dev)"
    ),
    "dpdk": program("dpdk-testpmd", "dpdk-dev"),
    "ethtool": program("ethtool", "ethtool"),
    "hugepages": Requirement(
        has_hugepages, "a free 2 MB huge page (sysctl vm.nr_hugepages=256)"
    ),
    "iperf3": program("iperf3", "iperf3"),
    "libpcap": Requirement(has_libpcap, "libpcap.so.0.8 (package libpcap0.8)"),
    "netns": Requirement(has_netns, "the right to make a network namespace"),
    "nft": Requirement(
        has_nft, "nftables, in the kernel and as a program (package nftables)"
    ),
    "ping": program("ping", "iputils-ping"),
    "public": Requirement(
        is_public, "root, and a checkout and a Python that any user may read"
    ),
    "qemu": Requirement(
        lambda: guest.find() is not None,
        "QEMU and a kernel for guests (run scripts/test-guest)",
    ),
    "root": Requirement(is_root, "root"),
    "seg6": Requirement(
        has_seg6, "segment routing in the kernel (CONFIG_IPV6_SEG6_LWTUNNEL)"
    ),
    "strace": program("strace", "strace"),
    "systemd": program("systemd-analyze", "systemd"),
    "tbf": Requirement(has_tbf, "the queueing discipline tbf (module sch_tbf)"),
    "tcpdump": program("tcpdump", "tcpdump"),
    "traceroute": program("traceroute", "traceroute"),
    "tun": Requirement(has_tun, "the right to open /dev/net/tun"),
    "two-cpus": Requirement(has_two_cpus, "two CPUs"),
    "vlan": Requirement(has_vlan, "VLAN interfaces in the kernel (module 8021q)"),
    "xdp": Requirement(has_xdp, "XDP sockets in the kernel (CONFIG_XDP_SOCKETS)"),
}


@functools.cache
def is_met(name: str) -> bool:
    """Return whether the machine has it; asked once a run."""
    return REQUIREMENTS[name].is_met()


def check_names(names: set[str], where: str) -> None:
    """Raise UsageError if a name is not in the table: a typing error skips nothing."""
    if unknown := names - REQUIREMENTS.keys():
        text = (
            f"{where}: unknown requirement {', '.join(sorted(unknown))}; "
            f"there are {', '.join(REQUIREMENTS)}"
        )
        raise pytest.UsageError(text)


def required_names() -> set[str]:
    """Return the names in SNABB_REQUIRE."""
    names = os.environ.get("SNABB_REQUIRE", "").split(",")
    return {name.strip() for name in names} - {""}


def need(*names: str) -> None:
    """Skip the running test if the machine lacks one of these, or fail as required."""
    check_names(set(names), "need")
    for name in names:
        if not is_met(name):
            give_up(name)


def give_up(name: str) -> NoReturn:
    text = f"needs {REQUIREMENTS[name].missing}"
    if name in required_names():
        pytest.fail(f"{text}, and SNABB_REQUIRE says it is here", pytrace=False)
    raise Unmet(text)
