"""A Linux guest that judges us: stock drivers and tools on the far side of a device.

    with Guest(cards=[socket]) as guest:
        guest.run("modprobe ixgbe")
        card = guest.interface(0)
        guest.run(f"ip link set {card} up")

QEMU and the kernel are those of `scripts/test-guest`. The guest sees this machine's
files, read-only, at their own paths: its programs are the guest's too. `/tmp`, `/run`
and `/dev` are the guest's own. `/tmp/share` is the directory `guest.share` here, for
captures and whatever else is too much to print.

QEMU emulates the CPU: KVM may be absent, or nested and far slower than that. A command
takes 50 ms, a boot five seconds, and nothing in a guest tells of speed.
"""

import itertools
import json
import re
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

SCRIPT = Path(__file__).parents[1] / "scripts" / "test-guest"
BOOT_TIMEOUT = 90.0
# What the agent has for its answer when a command ended or was killed, seconds.
GRACE = 15.0
LAST_LINES = 60

# How strictly the guest's IOMMU is used: "strict" lets a card reach what a driver has
# mapped for it, from the map to the unmap; "pt" leaves the kernel's drivers alone, for
# vfio-pci.
IOMMU_ARGS = {
    "strict": "intel_iommu=on iommu=nopt iommu.strict=1",
    "pt": "intel_iommu=on iommu=pt",
}

# An emulated CPU boots half a second faster without these.
QUICK_BOOT_ARGS = (
    "mitigations=off lsm=capability initcall_blacklist=crypto_kdf108_init,jent_mod_init"
)

# The guest's first process. A request is a line with a shell script, as "printf %b"
# takes it; the reply is a line, "<exit status> <bytes of stdout> <bytes of stderr>",
# and these bytes. Files between, not pipes: what a command leaves running delays no
# reply. A line on the second port kills what runs; timeout(1) would double the time
# that a command takes.
AGENT = r"""
export PATH=/tmp/.agent:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mkdir /tmp/.agent && cd /tmp/.agent
# The kernel's drivers are where the kernel itself looks for them, outside.
for tool in lsmod modprobe rmmod; do
    printf '#!/bin/sh\nexec chroot /proc/1/root /bin/%s "$@"\n' $tool >$tool
    chmod +x $tool
done
ip link set lo up
# After one bus, so in the order of their numbers.
set -- /dev/vport*
exec 3<>"$1" 4<>"$2" || exec poweroff -f
while IFS= read -r line <&4; do
    kill -KILL "-$(cat pid)"
done &
echo ready >&3
while IFS= read -r script <&3; do
    printf %b "$script" >script
    setsid sh -c 'echo $$ >pid; exec chroot /host /bin/sh /tmp/.agent/script' \
        </dev/null >out 2>err 3<&- 4<&-
    echo $? $(stat -c %s out err) >&3
    cat out err >&3
done
echo "the agent's port is closed"
exec poweroff -f
"""
# A session of its own, so that a signal reaches all of it; the shell in it survives to
# note the exit status. What sh starts by "&" would ignore SIGINT.
JOB = """
mkdir -p {directory}
env --default-signal=INT,QUIT setsid sh -c '
    trap : HUP INT QUIT TERM
    echo $$ >{directory}/pid
    sh -c "$0"
    echo $? >{directory}/status
' {command} </dev/null >{directory}/out 2>{directory}/err &
until [ -s {directory}/pid ]; do sleep 0.02; done
cat {directory}/pid
"""


class GuestError(AssertionError):
    """A command failed in the guest, or the guest itself: with all that was said."""


def find() -> Path | None:
    """Return the directory that `scripts/test-guest` made, None if it made none."""
    found = subprocess.run(
        [SCRIPT, "--find"], check=False, capture_output=True, text=True
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else None


class Job:
    """A command that runs in the guest's background.

    Attributes:
        command: the shell command.
        pid: its session and process group in the guest.
    """

    def __init__(self, guest: "Guest", command: str, number: int) -> None:
        self.command = command
        self._guest = guest
        self._directory = f"/tmp/job-{number}"  # noqa: S108 - the guest's
        script = JOB.format(directory=self._directory, command=shlex.quote(command))
        self.pid = int(guest.run(script))

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._guest.call(f"kill -s 0 {self.pid}").returncode == 0

    @property
    def output(self) -> str:
        """What it has said so far, on stdout."""
        return self._guest.run(f"cat {self._directory}/out")

    @property
    def errors(self) -> str:
        """What it has said so far, on stderr."""
        return self._guest.run(f"cat {self._directory}/err")

    def wait_for(self, words: str, times: int = 1, timeout: float = 60) -> None:
        """Wait until it has said something, on stdout or stderr, in so many lines.

        The guest itself looks: asked again and again it would do little else.

        Raises:
            GuestError: it has ended before, or does not say it.
        """
        files = f"{self._directory}/out {self._directory}/err"
        look = f"cat {files} | grep -cF {shlex.quote(words)}"
        done = self._guest.call(
            f"until [ $({look}) -ge {times} ]; do"
            f" kill -s 0 {self.pid} 2>/dev/null || exit 1; sleep 0.2; done",
            timeout,
        )
        if done.returncode:
            self._guest.fail(self.command, done.returncode, self.output, self.errors)

    def send_signal(self, name: str) -> None:
        """Send a signal, such as "INT", to all of it."""
        self._guest.run(f"kill -s {name} -- -{self.pid}")

    def wait(self, timeout: float = 20) -> str:
        """Wait until it ends by itself; return its stdout.

        Raises:
            GuestError: the command failed, or did not end.
        """
        status, output = self._wait(timeout), self.output
        if status != 0:
            self._guest.fail(self.command, status, output, self.errors)
        return output

    def end(self, name: str = "INT", timeout: float = 20) -> str:
        """End it by a signal; return its stdout, whatever its exit status is."""
        self.send_signal(name)
        self._wait(timeout)
        return self.output

    def _wait(self, timeout: float) -> int:
        wait = f"while kill -s 0 {self.pid} 2>/dev/null; do sleep 0.05; done"
        status = f"cat {self._directory}/status || echo {128 + signal.SIGKILL}"
        return int(self._guest.run(f"{wait}; {status}", timeout))


class Guest:
    """A guest, from the boot to the end of the `with`; one command at a time.

    It dies with the thread that made it, so that nothing is left of a killed test run.

    Args:
        cards: Unix sockets on which cards are served by vfio-user; each one gets a PCI
            Express root port of its own.
        memory: QEMU's word for the size; shared with the cards.
        cpus: number of CPUs.
        iommu: one of IOMMU_ARGS; None: the guest has no IOMMU.
        kernel_args: more words for the kernel's command line ("pci=nomsi").
        extra: more arguments for QEMU.
        boot_timeout: seconds.

    Attributes:
        share: the directory that is `/tmp/share` in the guest; it ends with the guest.
        process: QEMU.
    """

    def __init__(  # noqa: PLR0913 - all but the first are seldom given
        self,
        cards: Iterable[Path | str] = (),
        *,
        memory: str = "512M",
        cpus: int = 2,
        iommu: str | None = None,
        kernel_args: str = "",
        extra: Iterable[str] = (),
        boot_timeout: float = BOOT_TIMEOUT,
    ) -> None:
        self._jobs = itertools.count()
        files = find()
        assert files, f"run {SCRIPT}"
        self._port, port = socket.socketpair()
        self._port.settimeout(GRACE)
        self._kill_port, kill_port = socket.socketpair()
        self._monitor, monitor = socket.socketpair()
        self._monitor.settimeout(GRACE)
        self._monitor_lines = self._monitor.makefile()
        self._received = b""
        self._files = tempfile.TemporaryDirectory(
            prefix="snabb-guest-", ignore_cleanup_errors=True
        )
        self._console = Path(self._files.name, "console")
        self.share = Path(self._files.name, "share")
        self.share.mkdir()
        self.share.chmod(0o1777)  # tcpdump, for one, writes as a user of its own
        (self.share / ".agent").write_text(AGENT)
        try:
            with port, kill_port, monitor, self._console.open("wb") as console:
                self.process = subprocess.Popen(
                    [
                        *("setpriv", "--pdeathsig", "KILL"),
                        *self._machine(files, memory, cpus, iommu, kernel_args),
                        *self._agent_ports(port, kill_port),
                        *("-chardev", f"socket,id=monitor,fd={monitor.fileno()}"),
                        *("-object", "monitor-qmp,id=qmp,chardev=monitor"),
                        *self._shares(files),
                        *self._cards(cards),
                        *extra,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    pass_fds=[end.fileno() for end in (port, kill_port, monitor)],
                )
        except BaseException:
            self._remove()
            raise
        try:
            ready = self._read_line(time.monotonic() + boot_timeout)
            assert ready == b"ready", ready
        except BaseException:
            self.close()
            raise

    def _machine(
        self, files: Path, memory: str, cpus: int, iommu: str | None, kernel_args: str
    ) -> list[str]:
        words = ["console=ttyS0 quiet panic=-1 tsc=reliable"]
        words += [QUICK_BOOT_ARGS, kernel_args]
        if iommu:
            words.append(IOMMU_ARGS[iommu])
        backend = f"memory-backend-memfd,id=memory,size={memory},share=on"
        arguments = [
            *(f"{files}/qemu", "-nodefaults", "-no-reboot"),
            *("-machine", "q35,accel=tcg,memory-backend=memory"),
            *("-cpu", "max", "-smp", str(cpus)),
            *("-m", memory, "-object", backend),
            *("-display", "none", "-serial", "stdio"),
            *("-kernel", f"{files}/vmlinuz", "-initrd", f"{files}/initrd"),
            *("-append", " ".join(words)),
            *("-object", "rng-builtin,id=random", "-device", "virtio-rng,rng=random"),
        ]
        if iommu:
            # Before all that it translates for.
            arguments += ["-device", "intel-iommu,intremap=on,caching-mode=on"]
        return arguments

    def _agent_ports(self, *ports: socket.socket) -> Iterable[str]:
        yield from ("-device", "virtio-serial")
        for number, port in enumerate(ports, 1):
            yield from ("-chardev", f"socket,id=agent{number},fd={port.fileno()}")
            yield from ("-device", f"virtserialport,chardev=agent{number},nr={number}")

    def _shares(self, files: Path) -> Iterable[str]:
        for tag, path, access in (
            ("host", Path("/"), "on"),
            ("modules", files / "lib", "on"),
            ("share", self.share, "off"),
        ):
            escaped = str(path).replace(",", ",,")
            yield "-virtfs"
            yield (
                f"local,mount_tag={tag},path={escaped},readonly={access},"
                "security_model=none,multidevs=remap"
            )

    def _cards(self, cards: Iterable[Path | str]) -> Iterable[str]:
        for number, path in enumerate(cards, 1):
            port = f"pcie-root-port,id=port{number},slot={number},chassis={number}"
            yield from ("-device", f"{port},addr={number + 15:#x}")
            card = {
                "driver": "vfio-user-pci",
                "bus": f"port{number}",
                "socket": {"type": "unix", "path": str(path)},
            }
            yield from ("-device", json.dumps(card))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- commands

    def run(self, command: str, timeout: float = 20) -> str:
        """Run a shell command that must succeed; return its stdout.

        Raises:
            GuestError: it failed or did not end within `timeout` seconds.
        """
        done = self.call(command, timeout)
        if done.returncode != 0:
            self.fail(command, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def call(
        self, command: str, timeout: float = 20
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command; return its exit status and output.

        Raises:
            GuestError: it did not end within `timeout` seconds.
        """
        self._send(command)
        is_late = not self._is_readable(time.monotonic() + timeout)
        if is_late:
            with suppress(OSError):  # QEMU has just ended: said better by what follows
                self._kill_port.sendall(b"\n")
        deadline = time.monotonic() + GRACE
        status, *sizes = map(int, self._read_line(deadline, command).split())
        output, errors = (
            self._read(size, deadline, command).decode(errors="replace")
            for size in sizes
        )
        if is_late:
            what = f"did not end within {timeout} s\n{output}{errors}"
            raise GuestError(self._describe(f"{command}: {what}"))
        return subprocess.CompletedProcess(command, status, output, errors)

    def start(self, command: str) -> Job:
        """Start a shell command in the background."""
        return Job(self, command, next(self._jobs))

    def fail(self, command: str, status: int, output: str, errors: str) -> NoReturn:
        """Raise GuestError for a command that failed."""
        text = f"{command}: exit status {status}\n{output}{errors}"
        raise GuestError(self._describe(text))

    # ---- what there is

    @property
    def console(self) -> str:
        """What the kernel, and QEMU, have said so far."""
        text = self._console.read_text(errors="replace")
        # The firmware clears the screen first.
        return re.sub(r"\x1b(\[[0-9;?=]*[A-Za-z]|c)|\r", "", text)

    def pci_address(self, card: int) -> str:
        """Return the guest's PCI address of a card, by its place in `cards`."""
        return f"0000:{card + 1:02x}:00.0"

    def interface(self, card: int, timeout: float = 20) -> str:
        """Wait for the network interface that a driver makes of a card; return it."""
        directory = f"/sys/bus/pci/devices/{self.pci_address(card)}/net"
        return self.run(
            f"until ls {directory} 2>/dev/null; do sleep 0.05; done", timeout
        ).strip()

    # ---- the end

    def power_off(self, timeout: float = 20) -> None:
        """End it as its user would: drivers stop their cards."""
        self._send("echo o >/proc/sysrq-trigger")  # there may be no reply
        self.process.wait(timeout)

    def reboot(self, *, is_told: bool = True, timeout: float = BOOT_TIMEOUT) -> None:
        """Boot it once more, on the cards that it has; what it ran is gone.

        Args:
            is_told: its kernel stops all drivers before; else the machine is reset.
            timeout: seconds.
        """
        self._ask_monitor("qmp_capabilities")
        # Only now: a kernel that panics must not boot again and again.
        self._ask_monitor("set-action", reboot="reset")
        if is_told:
            self._send("chroot /proc/1/root /bin/reboot -f")
        else:
            self._ask_monitor("system_reset")
        deadline = time.monotonic() + timeout
        while self._read_line(deadline, "reboot") != b"ready":
            pass
        self._ask_monitor("set-action", reboot="shutdown")

    def _ask_monitor(self, command: str, **arguments: str) -> None:
        request = {"execute": command, "arguments": arguments}
        self._monitor.sendall(json.dumps(request).encode() + b"\n")
        reply: dict[str, Any] = {}
        while "return" not in reply:  # greetings and events come in between
            assert "error" not in reply, (request, reply)
            line = self._monitor_lines.readline()
            if not line:
                raise GuestError(self._describe(f"{command}: QEMU has ended"))
            reply = json.loads(line)

    def kill(self) -> None:
        """Kill QEMU: cards see their client disappear."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it at once and remove all that belongs to it."""
        if self.process.poll() is None:
            self.kill()
        self._remove()

    def _remove(self) -> None:
        self._port.close()
        self._kill_port.close()
        self._monitor_lines.close()
        self._monitor.close()
        self._files.cleanup()

    # ---- the agent's port

    def _send(self, command: str) -> None:
        line = command.replace("\\", "\\\\").replace("\n", "\\n")
        with suppress(OSError):  # QEMU has ended: said better when the reply is read
            self._port.sendall(f"{line}\n".encode())

    def _is_readable(self, deadline: float) -> bool:
        rest = max(deadline - time.monotonic(), 0)
        return bool(select.select([self._port], [], [], rest)[0])

    def _receive(self, deadline: float, what: str) -> None:
        if not self._is_readable(deadline):
            self.kill()  # or the answer might come when something else was asked
            raise GuestError(self._describe(f"{what}: the guest does not answer"))
        try:
            received = self._port.recv(1 << 20)
        except OSError:  # QEMU died before it had read all
            received = b""
        if not received:
            self.process.wait(GRACE)
            text = f"{what}: QEMU ended, exit status {self.process.returncode}"
            raise GuestError(self._describe(text))
        self._received += received

    def _read(self, size: int, deadline: float, what: str) -> bytes:
        while len(self._received) < size:
            self._receive(deadline, what)
        read, self._received = self._received[:size], self._received[size:]
        return read

    def _read_line(self, deadline: float, what: str = "boot") -> bytes:
        while b"\n" not in self._received:
            self._receive(deadline, what)
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _describe(self, text: str) -> str:
        last = "\n".join(self.console.splitlines()[-LAST_LINES:])
        return f"{text}\n--- the guest's console ---\n{last}"
