"""What `snabb-py doctor` finds, and the steps that mend it.

A step that can be done at run time is shown as the command that does the same: what
`--fix` does is what the user would have typed. Imports engine.
"""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from snabb_py.engine import pci_bus
from snabb_py.engine.host import Host, format_cpus
from snabb_py.engine.pci import Device
from snabb_py.engine.shm import huge_pages_locked
from snabb_py.errors import DeviceError


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    #: It works, but slower or less safely than it could.
    WARNING = "warning"
    #: It does not work, or by far not as it should.
    PROBLEM = "problem"
    UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Advice:
    """A step that is the user's: at the next boot, in a slot, in a shell."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Write:
    """A text to be written to a file, or to some whose names differ in a number.

    Attributes:
        text: what.
        name: of the file, below the machine's root; "{}" stands for the number.
        numbers: of CPUs, of interrupts...
    """

    text: str
    name: str
    numbers: tuple[int, ...] = ()

    def __str__(self) -> str:
        if len(self.numbers) > 1:
            return f"echo {self.text} | tee /{self.name.format(braces(self.numbers))}"
        return f"echo {self.text} >/{self.name.format(*self.numbers)}"

    def do(self, host: Host) -> None:
        """Write to each of them, up to one that refuses."""
        for number in self.numbers or ("",):
            pci_bus.write(host.root / self.name.format(number), self.text)


def braces(numbers: Iterable[int]) -> str:
    """Return numbers as a shell expands them, "{2,4..7}"."""
    parts = format_cpus(numbers).replace("-", "..").split(",")
    if len(parts) == 1:
        return f"{{{parts[0]}}}"
    each = (f"{{{part}}}" if ".." in part else part for part in parts)
    return f"{{{','.join(each)}}}"


@dataclass(frozen=True)
class Load:
    """A kernel module to be loaded."""

    module: str

    def __str__(self) -> str:
        return f"modprobe {self.module}"

    def do(self, host: Host) -> None:
        """Load it."""
        del host
        if not pci_bus.load_module(self.module):
            number, hint = errno.ENODEV, "see dmesg"
            if os.geteuid():
                number, hint = errno.EPERM, "run as root"
            raise DeviceError(str(self), number, hint)


@dataclass(frozen=True)
class Reserve:
    """Huge pages to be had, so many of them free.

    Attributes:
        free: how many.
        total: how many there are then.
    """

    free: int
    total: int

    def __str__(self) -> str:
        return f"sysctl vm.nr_hugepages={self.total}"

    def do(self, host: Host) -> None:
        """Add what is missing by now: instances come and go."""
        with huge_pages_locked():
            total, free = host.huge_pages()
            target = host.root / "proc/sys/vm/nr_hugepages"
            pci_bus.write(target, str(total - free + self.free))
            _, free = host.huge_pages()
        if free < self.free:
            hint = f"the kernel finds {free}: at boot memory is not in pieces yet"
            raise DeviceError(str(self), errno.ENOMEM, hint)


#: What can be done now, and all that mends; the text of each is the command.
Action = Write | Load | Reserve
Step = Action | Advice


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        verdict: how bad it is.
        now: what is.
        should: what should be; "": nothing else.
        steps: that mend it, in order.
        name, subject: what was looked at, and on which card; set by who asked.
    """

    verdict: Verdict
    now: str
    should: str = ""
    steps: tuple[Step, ...] = ()
    name: str = ""
    subject: str = ""

    @property
    def command(self) -> str:
        """What mends it, for a shell or for whoever sits there."""
        return "; ".join(map(str, self.steps))

    @property
    def actions(self) -> list[Action]:
        """The steps that can be done now."""
        return [step for step in self.steps if not isinstance(step, Advice)]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "subject": self.subject or None,
            "verdict": str(self.verdict),
            "now": self.now,
            "should": self.should or None,
            "command": self.command or None,
        }


def ok(now: str) -> Finding:
    """Return that all is well."""
    return Finding(Verdict.OK, now)


def warning(now: str, should: str, *steps: Step) -> Finding:
    """Return what could be better."""
    return Finding(Verdict.WARNING, now, should, steps)


def problem(now: str, should: str, *steps: Step) -> Finding:
    """Return what is wrong."""
    return Finding(Verdict.PROBLEM, now, should, steps)


@dataclass(frozen=True)
class Case:
    """What is looked at.

    Attributes:
        host: the machine.
        cards: that packets come from.
        cpus: that workers are to have; none: not said.
    """

    host: Host
    cards: tuple[Device, ...] = ()
    cpus: tuple[int, ...] = ()

    @property
    def has_iommu(self) -> bool:
        """Whether an IOMMU translates for devices."""
        names = ("sys/class/iommu/*", "sys/kernel/iommu_groups/*")
        return any(self.host.glob(name) for name in names)
