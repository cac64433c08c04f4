"""PCI devices by a sysfs of files, with a few lines in the kernel's place."""

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from snabb_py.cli.pci import program
from snabb_py.engine import pci, pci_bus
from snabb_py.engine.pci_function import lock_holder
from snabb_py.engine.vfio import check_group
from snabb_py.errors import ConfigError, DeviceError
from snabb_py.nic import intel82599_ids

CARD, TWIN, BRIDGE = "0000:01:00.0", "0000:01:00.1", "0000:00:1c.0"
BAR = 128 << 10


class Kernel:
    """A sysfs of files, and what the kernel does when something is written to them.

    Attributes:
        root: of it.
        matches: the driver that takes a device by itself.
        broken: files of which a write fails, with the errno.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.matches = {CARD: "ixgbe", TWIN: "ixgbe"}
        self.broken: dict[str, int] = {}
        for name in ("ixgbe", "vfio-pci", "pcieport"):
            (self.bus / "drivers" / name).mkdir(parents=True)

    @property
    def bus(self) -> Path:
        return self.root / "bus/pci"

    def add(self, address: str, driver: str | None = None, **files: str) -> Path:
        """Add a device; a file for each keyword."""
        path = self.bus / "devices" / address
        path.mkdir(parents=True)
        resource = f"0xfe000000 {0xFE000000 + BAR - 1:#x} 0x140204\n"
        defaults = {
            "vendor": "0x8086",
            "device": "0x10fb",
            "class": "0x020000",
            "driver_override": "(null)",
            "numa_node": "-1",
            "resource": resource,
            "enable": "0",
            "reset": "",
            "modalias": "pci:none",
        }
        for name, text in (defaults | files).items():
            (path / name).write_text(f"{text}\n")
        (path / "resource0").write_bytes(bytes(8) + b"\x12\x34\0\0" + bytes(BAR - 12))
        (path / "config").write_bytes(bytes.fromhex("8680fb10 0704 1000") + bytes(56))
        self.drive(address, driver)
        return path

    def add_group(self, number: int, *addresses: str) -> None:
        group = self.root / "kernel/iommu_groups" / str(number)
        for address in addresses:
            (group / "devices" / address).mkdir(parents=True)
            (self.bus / "devices" / address / "iommu_group").symlink_to(group)

    def add_interface(self, address: str, name: str, flags: int) -> None:
        path = self.bus / "devices" / address / "net" / name
        path.mkdir(parents=True)
        (path / "flags").write_text(f"{flags:#x}\n")

    def drive(self, address: str, driver: str | None) -> None:
        link = self.bus / "devices" / address / "driver"
        link.unlink(missing_ok=True)
        if driver:
            link.symlink_to(self.bus / "drivers" / driver)

    def driver(self, address: str) -> str | None:
        return pci_bus.find(address, sysfs=self.root).driver

    def write(self, path: Path, text: str, timeout: float = 1) -> None:
        """Stand for `pci_bus.write`."""
        del timeout
        if path.name in self.broken:
            raise DeviceError(f"write to {path}", self.broken[path.name])
        if path.name == "unbind":
            self.drive(path.parents[1].name if "devices" in str(path) else text, None)
        elif path.name == "drivers_probe":
            override = pci_bus.find(text, sysfs=self.root).override
            self.drive(text, override or self.matches.get(text))
        else:
            path.write_text(text if text.strip() else "(null)\n")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(tmp_path / "sys")
    monkeypatch.setattr(pci_bus, "SYSFS", kernel.root)
    monkeypatch.setattr(pci_bus, "write", kernel.write)
    monkeypatch.setattr(pci_bus, "load_module", lambda _name: False)
    monkeypatch.setattr(pci_bus, "PROBE_TIMEOUT", 0.05)
    return kernel


# ---- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("01:00.0", "0000:01:00.0"),
        ("0000:01:00.0", "0000:01:00.0"),
        ("10000:AF:1F.7", "10000:af:1f.7"),
    ],
)
def test_an_address_is_read(text: str, address: str) -> None:
    assert pci.is_address(text)
    assert pci.parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "eth0", "1:00.0", "01:20.0", "01:00.8", "01:00.0 ", "../01:00.0"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert not pci.is_address(text)
    with pytest.raises(ConfigError, match=f'"{text}": expected one such as 0000:01'):
        pci.parse_address(text)


# ---- what there is


def test_a_device_is_described(kernel: Kernel) -> None:
    path = kernel.add(CARD, "ixgbe", numa_node="1")
    kernel.add(TWIN, "vfio-pci")
    kernel.add(BRIDGE, "pcieport", **{"class": "0x060400"})
    kernel.add_group(7, CARD, TWIN)
    kernel.add_interface(CARD, "eth1", 0x1003)
    device = pci.find("01:00.0")
    assert device == pci.Device(
        path=path,
        address=CARD,
        vendor=0x8086,
        device=0x10FB,
        class_code=0x020000,
        driver="ixgbe",
        iommu_group=7,
        group_devices=(TWIN,),
        numa_node=1,
        interfaces=("eth1",),
    )
    assert device.is_network
    assert device.is_up("eth1")
    bridge, *cards = pci.devices()
    assert not bridge.is_network
    assert (bridge.iommu_group, bridge.numa_node) == (None, None)
    assert [card.address for card in cards] == [CARD, TWIN]


def test_interfaces_of_virtio_are_found(kernel: Kernel) -> None:
    path = kernel.add(CARD, None)
    (path / "virtio3/net/eth7").mkdir(parents=True)
    device = pci.find(CARD)
    assert device.interfaces == ("eth7",)
    assert not device.is_up("eth7")


def test_a_group_in_name_only_is_none(kernel: Kernel) -> None:
    kernel.add(CARD, "vfio-pci")
    kernel.add_group(0, CARD)
    (kernel.root / "kernel/iommu_groups/0/name").write_text("vfio-noiommu\n")
    assert pci.find(CARD).iommu_group is None


def test_what_is_not_there_is_an_error(kernel: Kernel) -> None:
    del kernel
    with pytest.raises(DeviceError, match=f"PCI device {CARD}: No such device") as e:
        pci.find("01:00.0")
    assert e.value.errno == errno.ENODEV


def test_a_machine_without_pci_has_no_devices(tmp_path: Path) -> None:
    assert pci.devices(sysfs=tmp_path) == []


# ---- from driver to driver


def test_a_device_goes_to_vfio_and_back(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    kernel.add_group(7, CARD)
    pci.bind(pci.find(CARD))
    assert kernel.driver(CARD) == "vfio-pci"
    assert pci.find(CARD).override == "vfio-pci"
    pci.bind(pci.find(CARD))  # as it is
    pci.unbind(pci.find(CARD))
    assert kernel.driver(CARD) == "ixgbe"
    assert pci.find(CARD).override == ""


def test_what_the_kernel_drives_itself_stays_there(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    kernel.broken["unbind"] = errno.EIO
    pci.unbind(pci.find(CARD))
    assert kernel.driver(CARD) == "ixgbe"


def test_a_device_that_nobody_drives_is_given_back_to_nobody(kernel: Kernel) -> None:
    kernel.add(CARD, "vfio-pci", driver_override="vfio-pci")
    kernel.matches.clear()
    pci.unbind(pci.find(CARD))
    assert kernel.driver(CARD) is None


def test_no_driver_is_a_driver_too(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    pci.bind(pci.find(CARD), pci.NO_DRIVER)
    assert kernel.driver(CARD) is None
    pci.bind(pci.find(CARD), pci.NO_DRIVER)


@pytest.mark.parametrize("use", ["is up: ip link set eth1 down", "carries: x"])
def test_a_card_in_use_is_refused(
    kernel: Kernel, use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.add(CARD, "ixgbe")
    kernel.add_group(7, CARD)
    kernel.add_interface(CARD, "eth1", 0x1003)
    monkeypatch.setattr(pci_bus, "interface_use", lambda _device, _name: use)
    for act, step in (
        (lambda: pci.bind(pci.find(CARD)), f"bind {CARD} to vfio-pci"),
        (lambda: pci.claim(CARD), f"claim {CARD}"),
    ):
        with pytest.raises(DeviceError) as e:
            act()
        assert str(e.value) == (
            f"{step}: Device or resource busy; its interface eth1 {use}, or: "
            f"snabb-py pci bind --driver vfio-pci --force {CARD}"
        )
        assert kernel.driver(CARD) == "ixgbe"
    pci.bind(pci.find(CARD), force=True)
    assert kernel.driver(CARD) == "vfio-pci"


def test_interfaces_are_asked_for(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    kernel.add_interface(CARD, "nosuch0", 0x1003)
    use = pci_bus.interface_use(pci.find(CARD), "nosuch0")
    assert use == "is up: ip link set nosuch0 down"
    # An interface that this machine has for certain, and its address.
    kernel.add_interface(CARD, "lo", 0x1002)
    assert socket.if_nametoindex("lo")
    if use := pci_bus.interface_use(pci.find(CARD), "lo"):
        assert use == "has the address 127.0.0.1: ip addr flush dev lo"


def test_virtual_functions_keep_their_card(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe", sriov_numvfs="4")
    with pytest.raises(DeviceError, match=r"virtual functions: echo 0 >.*sriov_numvfs"):
        pci.bind(pci.find(CARD), pci.NO_DRIVER)


def test_without_an_iommu_vfio_is_refused(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    with pytest.raises(DeviceError, match="it has no IOMMU group, is the IOMMU"):
        pci.bind(pci.find(CARD))
    assert kernel.driver(CARD) == "ixgbe"


def test_a_driver_that_is_not_loaded_is_named(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    with pytest.raises(DeviceError, match="is not loaded: modprobe uio_pci_generic"):
        pci.bind(pci.find(CARD), "uio_pci_generic")
    with pytest.raises(ConfigError, match="expected a name"):
        pci.bind(pci.find(CARD), "../evil")


def test_a_driver_that_does_not_take_it_is_an_error(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    kernel.add_group(7, CARD)
    kernel.drive = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="the driver still has it: see dmesg"):
        pci.bind(pci.find(CARD))


def test_a_refused_write_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=f'write "x" to {tmp_path}/no/file: No such'):
        pci_bus.write(tmp_path / "no/file", "x\n")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(DeviceError, match=r"still not done after 0\.1 s"):
        pci_bus.write(tmp_path / "fifo", "x", timeout=0.1)
    assert (tmp_path / "fifo").read_text() == "x"  # lets the thread end


def test_a_group_with_drivers_of_the_kernel_is_refused(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    kernel.add(TWIN, "ixgbe")
    kernel.add(BRIDGE, "pcieport")
    kernel.add_group(7, CARD, TWIN, BRIDGE)
    with pytest.raises(DeviceError, match=r"0000:01:00.1 \(ixgbe\) of the same IOMMU"):
        pci.claim(CARD)
    assert kernel.driver(CARD) == "ixgbe"
    kernel.drive(TWIN, "vfio-pci")
    check_group(pci.find(CARD), "claim")


# ---- claimed


def test_a_claimed_card_is_reached_and_given_back(kernel: Kernel) -> None:
    path = kernel.add(CARD, "ixgbe")

    def command() -> int:
        return int.from_bytes((path / "config").read_bytes()[4:6], "little")

    with pci.claim("01:00.0") as card:
        assert kernel.driver(CARD) is None
        assert (card.address, card.method, card.is_physical) == (CARD, "sysfs", True)
        assert (card.vendor, card.device, card.size) == (0x8086, 0x10FB, BAR)
        assert card.read(8) == card.registers[2] == 0x3412
        card.write(0x10, 0xDEADBEEF)
        assert command() == 0x0403  # no mastering, no interrupts on a line
        card.set_master(True)
        assert card.read_config(4, 2) == command() == 0x0407
        assert (path / "enable").read_text() == "1"
        for offset in (-4, 2, BAR):
            with pytest.raises(IndexError):
                card.read(offset)
    card.close()
    assert command() == 0x0403
    assert (path / "resource0").read_bytes()[0x10:0x14] == bytes.fromhex("efbeadde")
    assert (path / "enable").read_text() == "0"
    assert (path / "reset").read_text() == "1"
    assert kernel.driver(CARD) == "ixgbe"
    with pytest.raises(IndexError):
        card.read(8)


def test_what_had_no_driver_is_left_with_none(kernel: Kernel) -> None:
    kernel.add(CARD)
    pci.claim(CARD).close()
    assert kernel.driver(CARD) is None


def test_a_card_is_one_processs(kernel: Kernel) -> None:
    path = kernel.add(CARD, "ixgbe")
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b');"
        "fcntl.flock(file, fcntl.LOCK_EX); print('ready', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, path / "resource0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        with (path / "resource0").open() as file:
            assert lock_holder(file.fileno()) == process.pid
        in_use = f"busy; in use by process {process.pid}"
        for act in (
            lambda: pci.claim(CARD),
            lambda: pci.bind(pci.find(CARD), pci.NO_DRIVER),
            lambda: pci.unbind(pci.find(CARD)),
        ):
            with pytest.raises(DeviceError, match=in_use):
                act()
        assert kernel.driver(CARD) == "ixgbe"
        process.communicate()
    with pci.claim(CARD) as card, pytest.raises(DeviceError, match=f"{os.getpid()}"):
        pci.claim(CARD)
    assert not card.is_gone


def test_a_card_whose_memory_goes_ends_nothing(kernel: Kernel) -> None:
    path = kernel.add(CARD)
    with pci.claim(CARD) as card:
        os.truncate(path / "resource0", 0)
        assert not card.is_gone
        assert card.read(8) == 0
        assert card.is_gone
        card.write(8, 1)


def test_a_card_that_the_kernel_has_forgotten_is_gone(kernel: Kernel) -> None:
    path = kernel.add(CARD)
    with pci.claim(CARD) as card:
        os.truncate(path / "config", 0)
        assert card.is_gone


@pytest.mark.parametrize("name", ["enable", "resource", "config"])
def test_a_failed_claim_gives_the_card_back(kernel: Kernel, name: str) -> None:
    path = kernel.add(CARD, "ixgbe")
    if name == "enable":
        kernel.broken[name] = errno.EIO
    elif name == "resource":  # BAR 0 of I/O ports
        (path / name).write_text("0xe000 0xe01f 0x40101\n")
    else:
        (path / name).unlink()
    with pytest.raises(DeviceError):
        pci.claim(CARD)
    assert kernel.driver(CARD) == "ixgbe"
    with (path / "resource0").open() as file:
        assert lock_holder(file.fileno()) is None


def test_a_device_without_registers_is_refused(kernel: Kernel) -> None:
    (kernel.add(CARD, "ixgbe") / "resource0").unlink()
    with pytest.raises(DeviceError, match=r"no memory of registers \(BAR 0\)"):
        pci.claim(CARD)


# ---- which cards


def test_the_family_is_known() -> None:
    intel82599_ids.check_id(0x8086, 0x10FB)
    assert not intel82599_ids.FAMILY.keys() & intel82599_ids.SIBLINGS.keys()


@pytest.mark.parametrize(
    ("vendor", "device", "what"),
    [
        (0x8086, 0x10C6, r"Intel 82598 \(8086:10c6\)"),
        (0x8086, 0x1528, r"Intel X540 \(8086:1528\)"),
        (0x8086, 0x1563, r"Intel X550 \(8086:1563\)"),
        (0x8086, 0x10ED, r"virtual function of an Intel 82599 \(8086:10ed\)"),
        (0x15B3, 0x10FB, "15b3:10fb"),
    ],
)
def test_others_are_refused_by_name(vendor: int, device: int, what: str) -> None:
    with pytest.raises(ConfigError, match=f"PCI device {what}: not supported"):
        intel82599_ids.check_id(vendor, device)


# ---- the program


def test_the_list(kernel: Kernel) -> None:
    kernel.add(CARD, "ixgbe")
    kernel.add_interface(CARD, "eth1", 0x1003)
    kernel.add(TWIN, None, device="0x1528", numa_node="1")
    kernel.add(BRIDGE, "pcieport", **{"class": "0x060400", "device": "0x1901"})
    kernel.add_group(12, TWIN)
    result = CliRunner().invoke(program, ["list"])
    head, card, twin = result.output.splitlines()
    assert re.split("  +", head)[1:] == [
        *("address", "what it is", "driver", "interfaces", "IOMMU", "NUMA"),
    ]
    assert re.split("  +", card) == [
        *(f"* {CARD}", "Intel 82599 SFP+ (X520) (8086:10fb)", "ixgbe", "eth1 up"),
        *("-", "-"),
    ]
    assert re.split("  +", twin) == [
        *("", TWIN, "Intel X540 (8086:1528)", "-", "-", "12", "1"),
    ]
    assert head.index("IOMMU") == twin.index("12  ")
    result = CliRunner().invoke(program, ["list", "--all"])
    assert "bridge (8086:1901)" in result.output


def test_the_list_of_none(kernel: Kernel) -> None:
    del kernel
    assert "no network cards" in CliRunner().invoke(program, ["list"]).output
