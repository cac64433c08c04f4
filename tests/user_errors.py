"""The table of what users do wrong, and the world in which they do it.

A row of `data/user_errors.txt` is a command, what is wrong with it and how it ends,
and the line that is printed, each a line of the file:

    $ forward raw:taken null
    busy: 1
    raw:taken: claim the interface: Device or resource busy; in use by process {pid}

Behind "as" stands a user, one of USERS: "missing right as nobody: 1". Words in braces
are of `World.words`. The world has networks, a PCI bus and a /run of its own, files to
name, and programs that have what others want; it has no huge pages.
"""

import fcntl
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.captures import classic, header
from tests.hosts import SNABB
from tests.users import NOBODY, user_command

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).parent / "data/user_errors.txt"
PRESENT = Path("/sys/devices/system/cpu/present")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
#: Below the PCI bus; and the card that somebody has.
CARDS, HELD = "pci/devices", "0000:01:00.1"

#: Who calls a program, by the command that makes the caller so.
USERS = {
    "root": (),
    # Root of no capabilities: may not read what is another's.
    "weak": ("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
    "poor": ("sh", "-c", 'ulimit -n 12; exec "$@"', "sh"),
    "cramped": ("sh", "-c", 'ulimit -v 250000; exec "$@"', "sh"),
}

#: What the namespaces are made of. The PCI bus hides the machine's.
SETTING = """
mount -t tmpfs none /run
mount -t sysfs none /sys
mount --bind $DIRECTORY/pci /sys/bus/pci
for file in /proc/sys/vm/nr_hugepages \\
    /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages
do
    [ -e $file ] || continue
    mount --bind $DIRECTORY/none $file
    mount -o remount,bind,ro $file
done
ip link set lo up
for name in e0 taken queue large; do
    ip link add $name type veth peer name far-$name
    ip link set $name up
    ip link set far-$name up
done
ip link set large mtu 9000
ip tuntap add tun0 mode tun
ip tuntap add held0 mode tap
echo ready
exec sleep infinity
"""


@dataclass(frozen=True)
class Row:
    """A mistake.

    Attributes:
        command: without snabb-py.
        kind: of mistake.
        user: who makes it.
        status: that the program ends with.
        line: that it prints, without what all begin with.
    """

    command: str
    kind: str
    user: str
    status: int
    line: str

    def __str__(self) -> str:
        return f"{self.command} ({self.kind})"


def rows() -> Iterator[Row]:
    """Yield the rows of the table."""
    for text in TABLE.read_text().strip().split("\n\n"):
        command, what, line = text.splitlines()
        kind, _, status = what.rpartition(": ")
        kind, _, user = kind.partition(" as ")
        yield Row(command.removeprefix("$ "), kind, user or "root", int(status), line)


class World:
    """Where the mistakes are made.

    Attributes:
        directory: of the files, in which programs are called.
        words: that stand in braces in the table.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        write_files(directory)
        write_cards(directory / "pci")
        self._stack = stack
        self._enter: list[str] = []
        setting = ["unshare", "--mount", "--net", "sh", "-ec", SETTING]
        holder = self._start(setting)
        self._enter = [
            *("nsenter", f"--target={holder.pid}", "--mount", "--net"),
            f"--wdns={directory}",
        ]
        self._start([*SNABB, "metrics"])
        cpus = sorted(os.sched_getaffinity(0))
        packets = [*SNABB, "forward", "raw:taken", "tap:held0", "--bidir"]
        queue = [*SNABB, "forward", "xdp:queue", "null"]
        self.words = {
            "dir": str(directory),
            "pid": str(self._start(packets).pid),
            "queue": str(self._start(queue).pid),
            "test": str(os.getpid()),
            "cpu": str(cpus[0]),
            "cpus": ", ".join(map(str, cpus)),
            "present": PRESENT.read_text().strip(),
            "newline": "\n",
            "byte": "\udcff",
        }
        taken = stack.enter_context(socket.socket(socket.AF_UNIX))
        taken.bind(str(directory / "taken.sock"))
        taken.listen()
        held = stack.enter_context((directory / CARDS / HELD / "resource0").open("rb"))
        fcntl.flock(held, fcntl.LOCK_EX)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start what lasts as long as the world; it runs when it has said something."""
        process = subprocess.Popen(
            [*self._enter, *command], text=True, pipesize=1 << 20,
            env=ENVIRONMENT | {"DIRECTORY": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._stack.callback(process.communicate)
        self._stack.callback(process.kill)
        assert process.stdout
        assert process.stdout.readline()
        return process

    @property
    def files(self) -> set[Path]:
        """All that there is in the directory."""
        return set(self.directory.rglob("*"))

    def command(self, row: Row) -> list[str]:
        """Return the command of a row, to be run anywhere."""
        words = shlex.split(row.command.format_map(self.words))
        if row.user == "nobody":
            words = user_command(*words, directory=self.directory)
        else:
            words = [*USERS[row.user], *SNABB, *words]
        return [*self._enter, *words]


@contextmanager
def world() -> Iterator[World]:
    """Make it; remove it in the end."""
    with ExitStack() as stack:
        # Not below pytest's directories: those are closed to others.
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="snabb-world-"))
        Path(name).chmod(0o755)
        yield World(Path(name), stack)


def write_files(directory: Path) -> None:
    """Write what programs are called with, good and bad."""
    for name in ("lwaftr.conf", "binding.table", "nfv.toml"):
        shutil.copy(ROOT / "examples" / name, directory)
    frames = [bytes.fromhex("020000000002 020000000001 0800") + bytes(50)]
    texts: dict[str, str | bytes] = {
        "none": "0\n",
        "text": "hello\n",
        "empty": "",
        "secret": "mine\n",
        "good.pcap": classic(frames),
        "without.pcap": classic([]),
        "cut.pcap": classic(frames)[:-1],
        "cooked.pcap": header(link_type=113),
        "one.toml": '[[port]]\nport_id = "A"\n',
        "vlan.toml": '[[port]]\nport_id = "A"\nvlan = 4300\n',
        "key.toml": '[[port]]\nport_id = "A"\nvlam = 3\n',
        "syntax.toml": "[[port]\n",
        "key.conf": "aftr_ipv5_ip = 192.0.2.1\n",
        "softwire.table": "softwires { { ipv4 = 1.2.3.4, b5 = ::1 } }\n",
        "none.table": "psid_map {} br_addresses {} softwires {}\n",
        "name.json": '{"in-ipv5-packets": 1}',
        "text.json": "[]",
    }
    for name, text in texts.items():
        data = text.encode() if isinstance(text, str) else text
        (directory / name).write_bytes(data)
    (directory / "secret").chmod(0o600)
    os.chown(directory / "secret", NOBODY, NOBODY)
    (directory / "directory").mkdir()
    os.mkfifo(directory / "fifo")


def write_cards(bus: Path) -> None:
    """Write a PCI bus: 82599s, the last one's interface is up; and what is none."""
    for driver in ("ixgbe", "vfio-pci"):
        (bus / "drivers" / driver).mkdir(parents=True)
    for address, device, class_code in (
        ("0000:00:00.0", "0x1237", "0x060000"),
        ("0000:01:00.0", "0x10fb", "0x020000"),
        (HELD, "0x10fb", "0x020000"),
        ("0000:01:00.2", "0x10fb", "0x020000"),
        ("0000:02:00.0", "0x1521", "0x020000"),
    ):
        path = bus / "devices" / address
        path.mkdir(parents=True)
        files = {"vendor": "0x8086", "device": device, "class": class_code}
        files |= {"resource": "0xfe000000 0xfe01ffff 0x140204", "enable": "0"}
        for name, text in files.items():
            (path / name).write_text(f"{text}\n")
        (path / "resource0").write_bytes(bytes(1 << 17))
        (path / "resource0").chmod(0o600)
    (path.parent / "0000:01:00.2/driver").symlink_to(bus / "drivers/ixgbe")
    interface = path.parent / "0000:01:00.2/net/e0"
    interface.mkdir(parents=True)
    (interface / "flags").write_text("0x1003\n")
