"""A server of files: what /proc and /sys say of a machine that we do not have.

    host = MadeUpHost(tmp_path)
    host.write("sys/devices/system/cpu/isolated", "1-3")

As it comes it is a good one: two NUMA nodes of two cores with two threads each, all
isolated but the first core of each node, an IOMMU, a card on node 1, memory reserved.
"""

import os
import struct
from pathlib import Path

from snabb_py.cli.doctor_memory import PAGES, VFIO_MODULES
from snabb_py.engine.host import CPU, NODE, Host
from snabb_py.engine.shm import runtime_directory

CARD, TWIN = "0000:81:00.0", "0000:81:00.1"
PORT = "sys/devices/pci0000:80/0000:80:01.0"
RELEASE = "6.1.0-44-amd64"
#: CPUs n and n + 4 are threads of one core; node 0 has the cores 0 and 1.
NODES = {0: (0, 1, 4, 5), 1: (2, 3, 6, 7)}
#: What workers are to have: a core of the card's node, the other thread isolated too.
CHOSEN = "3"


def express_config(*, payload: int, most: int) -> bytes:
    """Return the configuration space of a device of PCI Express.

    Args:
        payload: bytes that its packets may have.
        most: bytes that they could have.
    """
    data = bytearray(256)
    struct.pack_into("<H", data, 0x06, 0x10)
    data[0x34] = 0x40
    data[0x40:0x42] = b"\x01\xa0"  # power management, then
    data[0xA0:0xA2] = b"\x10\x00"
    struct.pack_into("<I", data, 0xA4, (most // 128).bit_length() - 1)
    struct.pack_into("<H", data, 0xA8, ((payload // 128).bit_length() - 1) << 5)
    return bytes(data)


class MadeUpHost(Host):
    """See the module.

    Args:
        root: an empty directory.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.managed: set[int] = set()  #: interrupts that the kernel alone moves
        self._make_memory()
        self._make_process()
        self._make_cpus()
        self._make_cards()

    def write(self, name: str, text: str) -> None:
        """Set what is in a file; directories are made for it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def is_managed(self, interrupt: int) -> bool:
        """See `Host`."""
        return interrupt in self.managed

    def remove(self, name: str) -> None:
        """Let there be no such file."""
        (self.root / name).unlink()

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link to another of the files, instead of what was there."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(self.root / target)

    def set_pages(self, free: int, *, node: int | None = None, kib: int = 2048) -> None:
        """Set how many huge pages are free, and how many there are: ten more."""
        base = "sys/kernel/mm" if node is None else f"{NODE}/node{node}"
        directory = f"{base}/hugepages/hugepages-{kib}kB"
        self.write(f"{directory}/nr_hugepages", str(free + 10 if free else 0))
        self.write(f"{directory}/free_hugepages", str(free))

    def _make_memory(self) -> None:
        self.set_pages(2 * PAGES)
        self.set_pages(0, kib=1 << 20)
        for node in NODES:
            self.set_pages(PAGES, node=node)
        self.write("proc/sys/vm/nr_hugepages", "0")
        self.write("etc/sysctl.d/50-pages.conf", f"vm.nr_hugepages = {2 * PAGES}")
        self.write("sys/kernel/iommu_groups/7/type", "DMA")
        (self.root / f"sys/kernel/iommu_groups/7/devices/{CARD}").mkdir(parents=True)
        for name in VFIO_MODULES.values():
            (self.root / name).mkdir(parents=True)
        for index in ("modules.dep", "modules.builtin"):
            self.write(f"lib/modules/{RELEASE}/{index}", "kernel/net/x.ko")

    def _make_process(self) -> None:
        self.write("proc/self/status", "Name:\tpython\nCapEff:\t000001ffffffffff")
        self.write("proc/self/limits", "Max locked memory  unlimited  unlimited bytes")
        self.write("proc/self/cgroup", "0::/user.slice")
        self.write("proc/cmdline", "ro quiet intel_iommu=on")
        self.write("proc/cpuinfo", "vendor_id : GenuineIntel")
        self.write("proc/sys/kernel/osrelease", RELEASE)
        self.write("proc/sys/kernel/perf_event_paranoid", "2")
        self.write("proc/net/protocols", "protocol  size\nPACKET  1\nXDP  1\nTCP  1")
        self.write("proc/1/comm", "systemd")
        self.write("dev/net/tun", "")
        path = self.root / runtime_directory().relative_to("/")
        path.mkdir(parents=True)
        path.chmod(0o700)
        os.chown(path, os.geteuid(), -1)

    def _make_cpus(self) -> None:
        for name in ("online", "present"):
            self.write(f"{CPU}/{name}", "0-7")
        self.write(f"{CPU}/isolated", "1,3,5,7")
        self.write(f"{CPU}/nohz_full", "1,3,5,7")
        self.write(f"{CPU}/intel_pstate/no_turbo", "1")
        self.write(f"{NODE}/online", "0-1")
        for node, cpus in NODES.items():
            self.write(f"{NODE}/node{node}/cpulist", ",".join(map(str, cpus)))
            for cpu in cpus:
                self.link(f"{CPU}/cpu{cpu}/node{node}", f"{NODE}/node{node}")
                self._make_cpu(cpu)
        (self.root / "proc/irq/44/eth0-rx-0").mkdir(parents=True)
        self.write("proc/irq/44/effective_affinity_list", "0")
        self.write("proc/irq/44/smp_affinity_list", "0-7")

    def _make_cpu(self, cpu: int) -> None:
        directory = f"{CPU}/cpu{cpu}"
        self.write(
            f"{directory}/topology/thread_siblings_list", f"{cpu % 4},{cpu % 4 + 4}"
        )
        self.write(f"{directory}/cpufreq/scaling_governor", "performance")
        self.write(f"{directory}/power/pm_qos_resume_latency_us", "0")
        for number, (name, latency) in enumerate((("POLL", 0), ("C1", 2), ("C6", 133))):
            state = f"{directory}/cpuidle/state{number}"
            self.write(f"{state}/name", name)
            self.write(f"{state}/latency", str(latency))
            self.write(f"{state}/disable", "1" if name == "C6" else "0")

    def _make_cards(self) -> None:
        self.make_card(CARD, group=7)
        (self.root / f"{PORT}/config").write_bytes(
            express_config(payload=256, most=256)
        )

    def make_card(self, address: str, *, group: int, driver: str = "ixgbe") -> None:
        """Plug in an 82599 behind the one port that there is."""
        directory = f"{PORT}/{address}"
        for name, text in {
            "vendor": "0x8086",
            "device": "0x10fb",
            "class": "0x020000",
            "numa_node": "1",
            "current_link_speed": "5.0 GT/s PCIe",
            "max_link_speed": "5.0 GT/s PCIe",
            "current_link_width": "8",
            "max_link_width": "8",
        }.items():
            self.write(f"{directory}/{name}", text)
        self.link(f"sys/bus/pci/devices/{address}", directory)
        self.link(f"{directory}/driver", f"sys/bus/pci/drivers/{driver}")
        self.link(f"{directory}/iommu_group", f"sys/kernel/iommu_groups/{group}")
        devices = self.root / f"sys/kernel/iommu_groups/{group}/devices"
        (devices / address).mkdir(parents=True, exist_ok=True)
        config = self.root / directory / "config"
        config.write_bytes(express_config(payload=256, most=512))
