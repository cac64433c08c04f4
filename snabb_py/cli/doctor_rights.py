"""What `snabb-py doctor` looks at: what we may do, and what the kernel can.

Each check takes a `Case` and returns one `Finding`, or raises `UntoldError`.
"""

import ctypes
import os
import stat
from pathlib import Path

from snabb_py.cli.doctor_finding import (
    Advice,
    Case,
    Finding,
    Load,
    ok,
    problem,
    warning,
)
from snabb_py.engine.shm import runtime_directory

TUN = "dev/net/tun"
WITHOUT_IOMMU = "a card without an IOMMU"
#: Interface -> what it takes.
NEEDS = {
    "raw:": ("CAP_NET_RAW",),
    "tap:": ("CAP_NET_ADMIN",),
    "xdp:": ("CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_BPF"),
    WITHOUT_IOMMU: ("CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"),
}
#: The names that the C half tries.
LIBPCAP = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")
#: Linux that tells a program when it need not wake AF_XDP up: XDP_USE_NEED_WAKEUP.
XDP_VERSION = (5, 4)
#: /proc/sys/kernel/perf_event_paranoid: from 3 on none is a user's, on Debian's kernel.
PERF_MOST = 2


def rights(case: Case) -> Finding:
    """Whether we may use all kinds of interfaces."""
    lacking = {
        kind: missing
        for kind, names in NEEDS.items()
        if (missing := case.host.missing(names))
    }
    if not lacking:
        return ok("for all kinds of interfaces")
    needs_root = case.cards and not case.has_iommu and WITHOUT_IOMMU in lacking
    grants = sorted({name for names in lacking.values() for name in names})
    words = ",".join("+" + name.removeprefix("CAP_").lower() for name in grants)
    return (problem if needs_root else warning)(
        "; ".join(
            f"{kind} lacks {', '.join(names)}" for kind, names in lacking.items()
        ),
        "root, or these capabilities, for these interfaces",
        Advice(
            f"setpriv --inh-caps {words} --ambient-caps {words} snabb-py..., as root; "
            "AmbientCapabilities= in a unit"
        ),
    )


def tap(case: Case) -> Finding:
    """Whether tap interfaces can be made."""
    path = case.host.root / TUN
    if not path.exists():
        return warning(f"no /{TUN}", "there, for tap:", Load("tun"))
    if not os.access(path, os.R_OK | os.W_OK):
        return warning(
            f"/{TUN} is not ours to open", "0666", Advice(f"chmod 0666 /{TUN}")
        )
    return ok(f"/{TUN}")


def sockets(case: Case) -> Finding:
    """Whether the kernel has the sockets of raw: and xdp:."""
    known, version = case.host.protocols(), case.host.version()
    text = f"Linux {version[0]}.{version[1]}"
    if "PACKET" not in known:
        return warning(
            f"{text} without AF_PACKET", "with it, for raw:", Load("af_packet")
        )
    if "XDP" not in known:
        return warning(
            f"{text} without AF_XDP",
            "with it, for fast interfaces of the kernel",
            Advice("a kernel with CONFIG_XDP_SOCKETS"),
        )
    if version < XDP_VERSION:
        return warning(
            f"{text}, whose AF_XDP has to be woken up for each packet",
            "5.4 or newer",
            Advice("a newer kernel"),
        )
    return ok(f"{text} with AF_PACKET and AF_XDP")


def libpcap(case: Case) -> Finding:
    """Whether filters can be compiled."""
    del case
    for name in LIBPCAP:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return ok(name)
    return warning("not found", "there, for filters", Advice("apt install libpcap0.8"))


def directory(case: Case) -> Finding:
    """Whether instances can have their directories, and nobody else planted ours."""
    path = runtime_directory()
    inside = case.host.root / path.relative_to("/")
    try:
        status = inside.lstat()
    except FileNotFoundError:
        return _directory_to_be(path, inside)
    except OSError as error:
        return problem(f"{path}: {error.strerror}", "ours", _elsewhere())
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not stat.S_ISDIR(status.st_mode) or not is_ours:
        owner, mode = status.st_uid, stat.filemode(status.st_mode)
        return problem(
            f"{path} is user {owner}'s, {mode}",
            f"a directory of user {os.geteuid()}'s that nobody else writes to",
            Advice(f"rm -r {path}") if os.geteuid() == 0 else _elsewhere(),
        )
    return ok(f"{path}")


def _directory_to_be(path: Path, inside: Path) -> Finding:
    if os.access(inside.parent, os.W_OK | os.X_OK):
        return ok(f"{path}, made when a program starts")
    return problem(
        f"no {path}, and {path.parent} is not ours to write to", "ours", _elsewhere()
    )


def _elsewhere() -> Advice:
    return Advice("export XDG_RUNTIME_DIR=DIRECTORY, of ours alone")


def perf(case: Case) -> Finding:
    """Whether perf may look at workers."""
    name = "proc/sys/kernel/perf_event_paranoid"
    level = case.host.number(name)
    if level <= PERF_MOST or not case.host.missing(["CAP_SYS_ADMIN"]):
        return ok(f"kernel.perf_event_paranoid={level}: it may look at our programs")
    return warning(
        f"kernel.perf_event_paranoid={level}: root's alone",
        f"{PERF_MOST}, to see where a worker's time goes",
        Advice(f"sysctl kernel.perf_event_paranoid={PERF_MOST}"),
    )
