"""PCI cards in user space, on a real kernel: a Linux guest that has a software card.

With an IOMMU by VFIO, without one by sysfs; what the card sees of it is looked at from
the outside, in its configuration space.
"""

import json
import re
from collections.abc import Iterator

import pytest

from snabb_py.nic.registers import offset
from tests.hosts import until
from tests.machine import BUS_MASTER, PATIENCE, Machine, machine

pytestmark = pytest.mark.need("qemu")

#: Has the card and memory for it until it is ended.
HOLD = """
import signal
card = pci.claim(address)
memory = Memory(4 << 20, huge=card.is_physical)
if not card.is_physical:
    start = int(ffi.cast("uintptr_t", memory.address))
    card.map(start, start, memory.size)
card.set_master(True)
say(pid=os.getpid())
try:
    signal.pause()
finally:
    card.close()
"""

REGISTERS = "; ".join(f"{n} = {offset(n)}" for n in ("GPIE", "EIMS", "EICR", "EICS"))


@pytest.fixture(scope="module")
def vfio() -> Iterator[Machine]:
    with machine(iommu="pt") as it:
        yield it


@pytest.fixture(scope="module")
def sysfs() -> Iterator[Machine]:
    with machine() as it:
        yield it


# ---- with an IOMMU


def test_a_card_is_listed_with_all_that_is_known(vfio: Machine) -> None:
    name = vfio.card.give_to_ixgbe()
    lines = vfio.snabb("pci", "list", "--json").splitlines()
    (card,) = (c for c in map(json.loads, lines) if c["address"] == vfio.card.address)
    assert card["supported"]
    assert card["name"] == "Intel 82599 SFP+ (X520) (8086:10fb)"
    assert card["driver"] == "ixgbe"
    assert card["interfaces"] == {name: "down"}
    assert isinstance(card["iommu_group"], int)
    line = next(
        x for x in vfio.snabb("pci", "list").splitlines() if vfio.card.address in x
    )
    assert line.startswith("* ")
    assert f"{name} down" in line
    assert len(vfio.snabb("pci", "list", "--all").splitlines()) > len(lines)


def test_it_is_bound_and_given_back(vfio: Machine) -> None:
    vfio.card.give_to_ixgbe()
    said = vfio.snabb("pci", "bind", vfio.card.address)
    assert said == f"{vfio.card.address}: vfio-pci (before: ixgbe)\n"
    assert vfio.card.driver == "vfio-pci"
    said = vfio.snabb("pci", "unbind", vfio.card.address)
    assert said == f"{vfio.card.address}: ixgbe (before: vfio-pci)\n"
    assert vfio.card.driver == "ixgbe"


def test_an_interface_in_use_is_left_alone_without_force(vfio: Machine) -> None:
    name = vfio.card.give_to_ixgbe()
    bind = ("pci", "bind", vfio.card.address)
    vfio.run(f"ip addr add 192.0.2.1/24 dev {name}")
    assert f"its interface {name} has the address 192.0.2.1" in vfio.refused(*bind)
    vfio.run(f"ip addr flush dev {name}; ip link set {name} up")
    line = vfio.refused(*bind)
    assert line == (
        f"snabb-py: bind {vfio.card.address} to vfio-pci: Device or resource busy; its "
        f"interface {name} is up: ip link set {name} down, or: snabb-py pci bind "
        f"--driver vfio-pci --force {vfio.card.address}"
    )
    vfio.run(
        f"ip addr add 192.0.2.1/24 dev {name}; ip link set {name} up;"
        "ip route add default via 192.0.2.9"
    )
    assert f"its interface {name} carries the default route" in vfio.refused(*bind)
    said = vfio.python("""
try:
    pci.claim(address)
except SnabbError as error:
    say(error=str(error))
""")
    assert "carries the default route" in said["error"]
    assert vfio.card.driver == "ixgbe"
    vfio.snabb(*bind, "--force")
    assert vfio.card.driver == "vfio-pci"


def test_what_vfio_gives(vfio: Machine) -> None:
    vfio.card.give_to_ixgbe()
    said = vfio.python("""
memory = Memory(2 << 20, huge=False)
start = int(ffi.cast("uintptr_t", memory.address))
with pci.claim(address) as card:
    found = dict(
        method=card.method, is_physical=card.is_physical, size=card.size,
        ids=[card.vendor, card.device], status=card.read(8), gone=card.is_gone,
        pointed=card.registers[2], commands=[card.read_config(4, 2)])
    card.map(start, start, memory.size)
    card.map(0x1000000, start, 4096)
    errors = []
    for wrong in ((start, start, 2 << 20 << 1), (0x2000001, start, 4096)):
        try:
            card.map(*wrong)
        except SnabbError as error:
            errors.append(str(error))
    card.set_master(True)
    found["commands"].append(card.read_config(4, 2))
    card.unmap(0x1000000, 4096)
    card.set_master(False)
    found["commands"].append(card.read_config(4, 2))
    found["driver"] = pci.find(address).driver
    for offset in (-4, 2, card.size):
        try:
            card.read(offset)
        except IndexError as error:
            errors.append(str(error))
card.close()
memory.close()
say(**found, errors=errors, back=pci.find(address).driver)
""")
    errors = said.pop("errors")
    status = said["status"]
    assert status & 1 << 19  # it may be master
    commands = said.pop("commands")
    assert [command & BUS_MASTER for command in commands] == [0, BUS_MASTER, 0]
    assert said == {
        "method": "vfio",
        "is_physical": False,
        "size": 128 << 10,
        "ids": [0x8086, 0x10FB],
        "status": status,
        "gone": False,
        "pointed": status,
        "driver": "vfio-pci",
        "back": "ixgbe",
    }
    assert re.search("map 0x400000 bytes at .*: File exists; some of it", errors[0])
    assert re.search("at 0x2000001 for DMA: Invalid argument; whole pages", errors[1])
    assert len(errors) == 5


def test_interrupts_count_up_eventfds(vfio: Machine) -> None:
    vfio.card.give_to_ixgbe()
    said = vfio.python(
        """
import select
events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3)]
counts = []
with pci.claim(address) as card:
    card.set_master(True)
    card.write(GPIE, 1 << 31 | 1 << 4)  # MSI-X
    card.write(EIMS, 7)
    for fds in (events[:1], events, [], events[:2]):
        card.set_interrupts(fds)
        found = [0] * 3
        for vector in range(3):
            card.write(EICR, 0xffffffff)
            card.write(EICS, 1 << vector)
            # The card takes its time: what is cleared at once is not signalled.
            while (ready := select.select(events, [], [], 0.3)[0]):
                for fd in ready:
                    found[events.index(fd)] += os.eventfd_read(fd)
        counts.append(found)
    try:
        card.set_interrupts(events * 22)
    except SnabbError as error:
        say(nvectors=card.nvectors, counts=counts, error=str(error))
""".replace("import select", f"import select\n{REGISTERS}")
    )
    assert said["nvectors"] == 64
    # QEMU adds one of its own when interrupts are switched on.
    come = [[n > 0 for n in counts] for counts in said["counts"]]
    none, all_, one, two = [False] * 3, [True] * 3, [1, 0, 0], [1, 1, 0]
    assert come == [one, all_, none, two]
    assert "use 66 MSI-X vectors: Invalid argument; it has 64" in said["error"]


def test_two_programs_do_not_share_a_card(vfio: Machine) -> None:
    vfio.card.give_to_ixgbe()
    job, holder = vfio.start(HOLD)
    claim = """
try:
    pci.claim(address)
except SnabbError as error:
    say(error=str(error))
"""
    in_use = f"Device or resource busy; in use by process {holder['pid']}"
    assert vfio.python(claim)["error"] == f"claim {vfio.card.address}: {in_use}"
    line = vfio.refused("pci", "unbind", vfio.card.address)
    assert line == f"snabb-py: unbind {vfio.card.address}: {in_use}"
    job.end("INT")
    assert vfio.card.driver == "ixgbe"


# ---- without one


def test_what_sysfs_gives(sysfs: Machine) -> None:
    sysfs.card.give_to_ixgbe()
    said = sysfs.python("""
enabled = lambda: open(f"/sys/bus/pci/devices/{address}/enable").read().strip()
found = dict(enabled=[enabled()])
with pci.claim(address) as card:
    found |= dict(
        method=card.method, is_physical=card.is_physical, nvectors=card.nvectors,
        size=card.size, status=card.read(8), commands=[card.read_config(4, 2)])
    memory = Memory(4 << 20)
    pages = memory.physical()
    card.map(pages[0], 0, 2 << 20)
    card.set_master(True)
    found["commands"].append(card.read_config(4, 2))
    found["driver"] = pci.find(address).driver
    found["enabled"].append(enabled())
    card.set_interrupts([])
    try:
        card.set_interrupts([1])
    except SnabbError as error:
        found["error"] = str(error)
found["enabled"].append(enabled())
say(**found, pages=len(set(pages)), back=pci.find(address).driver)
""")
    before, mastering = said.pop("commands")
    assert before & BUS_MASTER == 0
    assert mastering == before | BUS_MASTER
    assert before & 1 << 10  # no interrupt on a line
    assert said.pop("status") & 1 << 19
    assert said == {
        "method": "sysfs",
        "is_physical": True,
        "nvectors": 0,
        "size": 128 << 10,
        "driver": None,
        "back": "ixgbe",
        "enabled": ["1", "1", "1"],
        "pages": 2,
        "error": f"{sysfs.card.address}: interrupts: Operation not supported; "
        "they need VFIO, hence an IOMMU",
    }


def test_without_an_iommu_there_is_no_vfio(sysfs: Machine) -> None:
    sysfs.card.give_to_ixgbe()
    line = sysfs.refused("pci", "bind", sysfs.card.address)
    assert "it has no IOMMU group" in line
    assert sysfs.card.driver == "ixgbe"
    said = sysfs.snabb("pci", "bind", sysfs.card.address, "--driver", "none")
    assert said == f"{sysfs.card.address}: no driver (before: ixgbe)\n"
    # What had no driver gets none.
    python = "with pci.claim(address) as card: say(status=card.read(8))"
    assert sysfs.python(python)["status"] & 1 << 19
    assert sysfs.card.driver == "none"


def test_a_card_that_is_taken_out_ends_no_program(sysfs: Machine) -> None:
    sysfs.card.give_to_ixgbe()
    said = sysfs.python("""
card = pci.claim(address)
card.set_master(True)
with open(f"/sys/bus/pci/devices/{address}/remove", "w") as file:
    file.write("1")
card.read(8)
card.write(8, 1)
card.close()
with open("/sys/bus/pci/rescan", "w") as file:
    file.write("1")
say(gone=card.address)
""")
    assert said["gone"] == sysfs.card.address
    until(lambda: sysfs.card.driver == "ixgbe", "back again", PATIENCE)


# ---- killed


@pytest.mark.parametrize("kind", ["vfio", "sysfs"])
def test_a_killed_program_leaves_the_card_to_the_kernel(
    kind: str, request: pytest.FixtureRequest
) -> None:
    it: Machine = request.getfixturevalue(kind)
    it.card.give_to_ixgbe()
    job, _ = it.start(HOLD)
    assert it.card.is_master
    job.send_signal("KILL")
    until(lambda: it.card.driver == "ixgbe", "given back", PATIENCE)
    # It works: nothing has been left of us.
    name = it.guest.interface(0, PATIENCE)
    look = f"ip link show {name} | grep -q LOWER_UP"
    it.run(f"ip link set {name} up; until {look}; do sleep 0.05; done")
    assert "snabb-watchdog" not in it.run("cat /proc/[0-9]*/comm")


def test_a_card_is_at_rest_before_anything_else(sysfs: Machine) -> None:
    """One that had no driver shows it: nobody touches it after the watchdog."""
    sysfs.card.give_to_ixgbe()
    sysfs.snabb("pci", "bind", sysfs.card.address, "--driver", "none")
    job, _ = sysfs.start(HOLD)
    assert sysfs.card.is_master
    job.send_signal("KILL")
    until(lambda: not sysfs.card.is_master, "at rest")
    assert sysfs.card.driver == "none"
    # The lock has gone, too.
    python = "with pci.claim(address) as card: say(status=card.read(8))"
    assert sysfs.python(python)["status"] & 1 << 19


def test_a_claim_waits_for_the_watchdog_of_one_that_was_killed(sysfs: Machine) -> None:
    sysfs.card.give_to_ixgbe()
    job, _ = sysfs.start(HOLD)
    job.send_signal("KILL")
    python = "with pci.claim(address, force=True) as card: say(status=card.read(8))"
    assert sysfs.python(python)["status"] & 1 << 19
    assert sysfs.card.driver == "ixgbe"
