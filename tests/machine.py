"""A guest in which snabb-py runs, on software cards that this process serves.

    with machine(2, iommu="pt") as it:
        job = it.start_snabb("forward", *it.addresses)
        it.cards[0].wire.send(frames)
        it.cards[1].wire.take(len(frames))

The guest has this checkout and its Python. Of each card both sides can be seen: what
the guest makes of it, and the card itself with the far end of its wire, where frames
come out of captures and go into one. None of it needs root.
"""

import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from snabb_py._native import lib
from snabb_py.apps.pcap import PcapReader, PcapWriter
from snabb_py.engine.config import Config, LinkSpec
from snabb_py.engine.engine import Engine
from snabb_py.nic.model82599 import MAC_PREFIX, Card, SoftwareCard
from tests import captures
from tests.guest import Guest, Job
from tests.hosts import until
from tests.served_card import serving

HOME = Path(__file__).parents[1]
PYTHON = sys.executable
#: Where the guest has files of its own instead of ours.
GUESTS_OWN = ("/tmp", "/run", "/dev")  # noqa: S108 - the guest's
#: Emulated, and on a machine that does other things too.
PATIENCE = 60
COMMAND, BUS_MASTER = 4, 4

#: In the guest: what most programs begin with.
PROLOGUE = """
import json, os, struct, sys
from snabb_py._native import ffi
from snabb_py.engine import pci
from snabb_py.engine.memory import Memory
from snabb_py.errors import SnabbError
address = sys.argv[1]
def say(**what):
    print(json.dumps(what), flush=True)
"""

REFUSALS = """
import contextlib, io
from snabb_py.cli import main
results = []
for words in json.loads(sys.argv[2]):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main(words)
        except SystemExit as end:
            results.append((end.code, errors.getvalue()))
say(results=results)
"""

#: To the kernel's own driver.
TO_IXGBE = """
modprobe ixgbe
cd /sys/bus/pci/devices/{address}
if [ "$(basename "$(readlink driver)")" != ixgbe ]; then
    echo >driver_override
    [ ! -e driver ] || echo {address} >driver/unbind
    echo {address} >/sys/bus/pci/drivers_probe
fi
"""


class Wire:
    """The far end of a card's wire.

    Frames are put on it from a capture and found in another one.

    Args:
        engine: of all wires.
        config: of its network; all wires change it.
        card: the card.
        directory: for captures.
    """

    def __init__(
        self, engine: Engine, config: Config, card: Card, directory: Path
    ) -> None:
        self.card = card
        self._engine, self._config = engine, config
        self._directory = directory
        self._number = 0
        self._taken = 0
        self._input = f"{card.name}-in"
        self._capture = directory / f"{card.name}-out.pcap"
        config.app(card.name, SoftwareCard, card=card)
        config.app(f"{card.name}-out", PcapWriter, path=str(self._capture))
        config.link(f"{card.name}.tx -> {card.name}-out.rx")

    @contextmanager
    def sending(
        self, frames: Sequence[bytes], *, interval_us: int = 0
    ) -> Iterator[None]:
        """Put frames on the wire, again and again until the end.

        Args:
            frames: these, without FCS.
            interval_us: between two of them; 0: once, at the wire's speed.
        """
        path = self._directory / f"{self._input}{self._number}.pcap"
        self._number += 1
        times = [divmod(i * interval_us, 10**6) for i in range(len(frames))]
        path.write_bytes(
            captures.header()
            + b"".join(
                captures.record(frame, time=time)
                for frame, time in zip(frames, times, strict=True)
            )
        )
        again = interval_us > 0
        config = self._config
        rounds = 0 if again else 1
        config.app(self._input, PcapReader, path=str(path), rounds=rounds, timing=again)
        link = LinkSpec(self._input, "tx", self.card.name, "rx")
        config.links.add(link)
        self._engine.commit(config)
        try:
            yield
        finally:
            del config.apps[self._input]
            config.links.remove(link)
            self._engine.commit(config)
            path.unlink()

    def send(self, *frames: bytes) -> None:
        """Put frames on the wire; return when the card has seen all of them."""
        end = self.card.counters["rx-packets"] + len(frames)
        with self.sending(frames):
            until(lambda: self.card.counters["rx-packets"] >= end, "frames", PATIENCE)

    def rest(self) -> list[bytes]:
        """Return what has come from the card and was not taken yet."""
        frames = captures.frames_in(self._capture.read_bytes())[self._taken :]
        self._taken += len(frames)
        return frames

    def take(self, n: int) -> list[bytes]:
        """Wait until so many frames have come, or more; return all."""
        found: list[bytes] = []

        def are_enough() -> bool:
            found.extend(self.rest())
            return len(found) >= n

        until(are_enough, f"{n} frames from {self.card.name}", PATIENCE)
        return found


class GuestCard:
    """A card from both sides.

    Attributes:
        guest: that has it.
        model: the card itself.
        wire: its other end.
        address: in the guest.
    """

    def __init__(self, guest: Guest, model: Card, wire: Wire, number: int) -> None:
        self.guest, self.model, self.wire = guest, model, wire
        self._number = number
        self.address = guest.pci_address(number)

    @property
    def driver(self) -> str:
        """Who has it in the guest."""
        link = f"/sys/bus/pci/devices/{self.address}/driver"
        return self.guest.run(f"basename $(readlink {link} || echo none)").strip()

    @property
    def command(self) -> int:
        """The command register, as the card has it."""
        data = self.model.access(lib.MODEL_CONFIG, COMMAND, 2)
        return int.from_bytes(data, "little")

    @property
    def is_master(self) -> bool:
        """Whether it may reach memory."""
        return bool(self.command & BUS_MASTER)

    def give_to_ixgbe(self) -> str:
        """Let the kernel's driver have it, its interface down; return that."""
        self.guest.run(TO_IXGBE.format(address=self.address), PATIENCE)
        name = self.guest.interface(self._number, PATIENCE)
        self.guest.run(f"ip link set {name} down; ip addr flush dev {name}")
        return name

    def take_from_drivers(self) -> None:
        """Let no driver have it."""
        device = f"/sys/bus/pci/devices/{self.address}"
        unbind = f"{device}/driver/unbind"
        self.guest.run(f"[ ! -e {unbind} ] || echo {self.address} >{unbind}")
        until(lambda: self.driver == "none", "without a driver", PATIENCE)


class Machine:
    """A guest with software cards, and our own programs in it.

    Attributes:
        guest, cards: these.
        card: the first one.
        addresses: of the cards in the guest.
    """

    def __init__(self, guest: Guest, cards: list[GuestCard]) -> None:
        self.guest, self.cards = guest, cards
        self.card = cards[0]
        self.addresses = [card.address for card in cards]
        for home in homes():
            self.run(
                f"mkdir -p {home} && mount -t 9p -o ro,trans=virtio,version=9p2000.L,"
                f"cache=loose,msize=262144 {tag_of(home)} {home}"
            )

    def run(self, command: str) -> str:
        """Run a shell command in the guest."""
        return self.guest.run(command, PATIENCE)

    # ---- snabb-py

    @staticmethod
    def command(*words: str) -> str:
        """Return the shell command that is snabb-py with these words."""
        program = [PYTHON, "-m", "snabb_py", *words]
        return f"cd {HOME}; exec {shlex.join(program)}"

    def snabb(self, *words: str) -> str:
        """Run snabb-py in the guest; return what it prints."""
        return self.run(self.command(*words))

    def start_snabb(self, *words: str) -> Job:
        """Start snabb-py in the guest."""
        return self.guest.start(self.command(*words))

    def refused(self, *words: str) -> str:
        """Run snabb-py in the guest, which must fail; return the one line it says."""
        done = self.guest.call(self.command(*words), PATIENCE)
        assert done.returncode == 1, done
        # A guest's memory is small: of two programs the second one may find no huge
        # pages in one piece, and says so.
        lines = [x for x in done.stderr.splitlines() if "no huge pages" not in x]
        assert len(lines) == 1, done
        return lines[0]

    def refusals(self, *calls: Sequence[str]) -> list[tuple[int, str]]:
        """Run snabb-py several times in one process of the guest, to save time.

        Returns:
            Exit status and what was said on stderr, of each.
        """
        results = self.python(REFUSALS, json.dumps(calls))["results"]
        return [(status, text) for status, text in results]

    # ---- Python

    def _command(self, program: str, words: Sequence[str]) -> str:
        python = [PYTHON, "-c", PROLOGUE + program, self.card.address, *words]
        return f"cd {HOME}; exec {shlex.join(python)}"

    def python(self, program: str, *words: str) -> Any:
        """Run a Python program in the guest; return what it says at last."""
        return json.loads(self.run(self._command(program, words)).splitlines()[-1])

    def start(self, program: str, *words: str) -> tuple[Job, Any]:
        """Start a Python program in the guest; return what it says first."""
        job = self.guest.start(self._command(program, words))
        job.wait_for("", timeout=PATIENCE)
        return job, json.loads(job.output.splitlines()[0])


def homes() -> list[Path]:
    """Return what of ours the guest does not see by itself."""
    found: list[Path] = []
    for path in (HOME, Path(sys.prefix)):
        is_hidden = any(path.is_relative_to(own) for own in GUESTS_OWN)
        if is_hidden and not any(path.is_relative_to(home) for home in found):
            found.append(path)
    return found


def tag_of(home: Path) -> str:
    return f"home{homes().index(home)}"


def shares() -> Iterator[str]:
    for home in homes():
        yield "-virtfs"
        yield (
            f"local,mount_tag={tag_of(home)},path={home},readonly=on,"
            "security_model=none,multidevs=remap"
        )


@contextmanager
def machine(ncards: int = 1, **guest: Any) -> Iterator[Machine]:
    """Boot a guest that has so many cards.

    Args:
        ncards: cards.
        guest: more for `Guest`.
    """
    with ExitStack() as stack:
        cards = [
            stack.enter_context(Card(mac=MAC_PREFIX + bytes([n + 1]), name=f"card{n}"))
            for n in range(ncards)
        ]
        servers = stack.enter_context(serving(*cards))
        directory = tempfile.TemporaryDirectory(prefix="snabb-wires-")
        path = Path(stack.enter_context(directory))
        engine = stack.enter_context(Engine(huge=False, packets=4096, large_packets=0))
        config = Config()
        wires = [Wire(engine, config, card, path) for card in cards]
        engine.commit(config)
        sockets = [server.path for server in servers]
        linux = stack.enter_context(Guest(sockets, extra=list(shares()), **guest))
        yield Machine(
            linux,
            [
                GuestCard(linux, card, wire, n)
                for n, (card, wire) in enumerate(zip(cards, wires, strict=True))
            ],
        )
