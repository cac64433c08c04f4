"""What the operator's guide says of rights, services and files is so."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from snabb_py.cli.sim82599 import qemu_options
from snabb_py.engine.control import VERBS
from tests import manual
from tests.hosts import SNABB, Namespace, run, until
from tests.integration.test_manual import all_counters
from tests.integration.test_nfv_cli import EVERYBODY, OUTSIDE, A, Vm, frame
from tests.machine import machine
from tests.nfv_program import port, toml

GUIDE = "operators.md"
UNIT = manual.ROOT / "examples" / "snabb-py-nfv.service"
CARD = manual.ROOT / "examples" / "snabb-py-nfv-card.conf"
NOBODY = 65534
#: Of 10: what systemd says of the service's exposure.
EXPOSURE = 2.0


def as_nobody(*capabilities: str) -> list[str]:
    """Return a command that runs another one with these rights and no others."""
    names = ",".join(["-all", *(f"+{name}" for name in capabilities)])
    return [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--{kind}={names}" for kind in ("bounding-set", "inh-caps", "ambient-caps")),
        "--no-new-privs",
    ]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of nobody's, which he can get at."""
    path = Path(run("mktemp", "-d", "/tmp/snabb-nobody-XXXXXX").strip())  # noqa: S108
    os.chown(path, NOBODY, NOBODY)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def cable() -> Iterator[Namespace]:
    """A namespace with two interfaces, eth1 and out, joined, and a tap of nobody's."""
    with ExitStack() as stack:
        namespace = Namespace()
        stack.callback(namespace.close)
        namespace.ip(
            "link add eth1 type veth peer name out\nlink set eth1 up\nlink set out up\n"
        )
        yield namespace


# -- the service -----------------------------------------------------------------


def settings(text: str, name: str) -> list[str]:
    """Return the values of a setting of a unit, in order."""
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


class Service(NamedTuple):
    """What the unit says of the process."""

    command: list[str]
    environment: dict[str, str]
    capabilities: list[str]


def service(place: Path) -> Service:
    """Return the service, at home in another directory."""
    text = UNIT.read_text()
    environment = dict(v.split("=", 1) for v in settings(text, "Environment"))
    (command,) = settings(text, "ExecStart")
    command = command.replace("${TRUNK}", environment["TRUNK"]).replace("%%", "%")
    for was, becomes in {
        "/run/snabb-py-nfv": str(place),
        "/etc/snabb-py": str(place),
        "--group kvm": f"--group {NOBODY}",
    }.items():
        assert was in command
        command = command.replace(was, becomes)
    words = shlex.split(command)
    assert words[0] == "/usr/local/bin/snabb-py"
    assert environment["XDG_RUNTIME_DIR"] == "/run/snabb-py-nfv"
    names = settings(text, "AmbientCapabilities")
    assert names == settings(text, "CapabilityBoundingSet")
    return Service(
        [*SNABB, *words[1:]],
        {**os.environ, "XDG_RUNTIME_DIR": str(place)},
        [name.removeprefix("CAP_").lower() for name in names[0].split()],
    )


@pytest.mark.need("root", "netns", "public")
def test_the_service_carries_packets_with_its_rights(place: Path) -> None:
    it = service(place)
    (place / "ports.toml").write_text(toml(port("A", A)))
    with cable() as namespace, ExitStack() as stack:
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace.name, *as_nobody(*it.capabilities),
             *it.command],
            env=it.environment, stdout=subprocess.DEVNULL, cwd=manual.ROOT,
        )  # fmt: skip
        stack.callback(process.wait, 60)
        stack.callback(process.terminate)
        until((place / "A.sock").is_socket, "its socket", 60)
        assert (place / "A.sock").stat().st_gid == NOBODY
        end = stack.enter_context(namespace.socket(17, 3, 0x0300))  # AF_PACKET, all
        end.bind(("out", 3))
        end.settimeout(20)
        with Vm(place / "A.sock") as vm:
            vm.send(frame(OUTSIDE, A))
            while end.recv(2048) != frame(OUTSIDE, A):
                pass
            end.send(frame(EVERYBODY, OUTSIDE))
            vm.wait_for(frame(EVERYBODY, OUTSIDE))
        assert (place / "snabb-py" / str(process.pid) / "control").is_socket()


@pytest.mark.need("root", "netns", "strace", "systemd")
def test_the_service_asks_the_kernel_for_nothing_that_is_refused(place: Path) -> None:
    it = service(place)
    # A filter is there, for it is made into machine code.
    (place / "ports.toml").write_text(toml(port("A", A, ingress_filter="tcp")))
    trace = place / "trace"
    with cable() as namespace:
        namespace(
            *("env", f"XDG_RUNTIME_DIR={place}", "strace", "-f", "-o", str(trace)),
            *(*it.command, "--duration", "1"),
        )
    text = trace.read_text()
    calls = set(re.findall(r"^\d+ +(\w+)\(", text, re.MULTILINE))
    assert {"mmap", "bind"} <= calls
    (group,) = settings(UNIT.read_text(), "SystemCallFilter")
    assert calls - allowed(group) == set()
    (families,) = settings(UNIT.read_text(), "RestrictAddressFamilies")
    assert set(re.findall(r"socket\((AF_\w+)", text)) == set(families.split())


def allowed(group: str) -> set[str]:
    """Return the system calls of a group of systemd's."""
    listed = run("systemd-analyze", "syscall-filter", group).splitlines()[1:]
    words = {line.strip() for line in listed if not line.strip().startswith("#")}
    groups = {word for word in words if word.startswith("@")}
    return (words - groups).union(*(allowed(inner) for inner in groups))


@pytest.mark.need("systemd")
@pytest.mark.parametrize("has_card", [False, True])
def test_systemd_finds_no_fault(has_card: bool, tmp_path: Path) -> None:
    unit, override = tmp_path / UNIT.name, tmp_path / f"{UNIT.name}.d" / "card.conf"
    files = {unit: UNIT, override: CARD} if has_card else {unit: UNIT}
    for path, source in files.items():
        path.parent.mkdir(exist_ok=True)
        # What it would start is not installed here.
        path.write_text(
            source.read_text().replace("/usr/local/bin/snabb-py", "/bin/true")
        )
    done = subprocess.run(
        ["systemd-analyze", "verify", unit],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    run(
        *("systemd-analyze", "security", "--offline=true", "--no-pager"),
        *(f"--threshold={EXPOSURE * 10:.0f}", str(unit)),
    )


# -- rights ------------------------------------------------------------------------


@pytest.mark.need("qemu", "public")
def test_a_card_is_a_users_who_has_its_group() -> None:
    prepare = [
        line.removeprefix("+").replace("$$", "$").replace("vfio $", f"{NOBODY} $")
        for line in settings(CARD.read_text(), "ExecStartPre")
    ]
    with machine(iommu="pt") as it:
        it.card.give_to_ixgbe()
        snabb = f"cd {manual.ROOT}; {shlex.join(SNABB)}"
        for unit in settings(CARD.read_text(), "Wants"):
            it.run(
                f"modprobe {unit.removeprefix('modprobe@').removesuffix('.service')}"
            )
        for line in prepare:
            command = line.replace("/usr/local/bin/snabb-py", snabb)
            it.run(command.replace("0000:01:00.0", it.card.address))
        user = shlex.join(as_nobody())
        forward = f"{shlex.join(SNABB)} forward {it.card.address} null"
        said = it.run(
            "ulimit -l unlimited;"
            f"mkdir -p /tmp/nobody; chown {NOBODY} /tmp/nobody; cd {manual.ROOT};"
            f"XDG_RUNTIME_DIR=/tmp/nobody {user} {forward} --duration 1 --json"
        )
        assert json.loads(said.splitlines()[-1])["program"] == "forward"
        assert it.card.driver == "vfio-pci"


# -- what is shown -------------------------------------------------------------------


@pytest.mark.parametrize("arguments", manual.commands(GUIDE), ids=" ".join)
def test_commands_shown_are_known(arguments: list[str]) -> None:
    # An option that is not there is refused before that of the manual is heard.
    run(*SNABB, *arguments, "--help")


def test_virtual_machines_are_shown_how(tmp_path: Path) -> None:
    found = [words for words in manual.commands(GUIDE) if words[:2] == ["nfv", "qemu"]]
    assert len(found) == 2
    (tmp_path / "examples").symlink_to(manual.ROOT / "examples")
    for arguments in found:
        assert "/run/snabb-py-nfv/A.sock" in manual.run(arguments, tmp_path)


def test_the_domain_has_the_options_of_sim82599() -> None:
    (text,) = manual.blocks(GUIDE, "xml")
    domain = ET.fromstring(text)  # noqa: S314 - our own
    uri = "{http://libvirt.org/schemas/domain/qemu/1.0}"
    given = [arg.get("value") for arg in domain.iter(f"{uri}arg")]
    options = "\n".join(qemu_options([Path("/run/nic.sock")]))
    wanted = shlex.split(options.replace("\\\n", ""))
    assert given == wanted[wanted.index("-device") :]
    assert domain.find("memoryBacking/access[@mode='shared']") is not None


def test_settings_of_the_kernel_exist(tmp_path: Path) -> None:
    (path,) = manual.write_files(GUIDE, tmp_path)
    names = re.findall(r"^(\S+) = \d+$", path.read_text(), re.MULTILINE)
    assert names
    for name in names:
        assert Path("/proc/sys", *name.split(".")).exists()


def test_what_it_names_is_there() -> None:
    """Counters of the last table, verbs, examples and other documents."""
    counters = {name for names in all_counters().values() for name in names}
    rows = [row for row in manual.rows(GUIDE) if row.heading == "Where packets went"]
    assert len(rows) > 5
    for row in rows:
        for name in row.names:
            pattern = re.compile(re.escape(name).replace(r"\.\.\.", ".*"))
            assert any(pattern.fullmatch(counter) for counter in counters), name
    text = manual.read(GUIDE)
    for verb in re.findall(r"verb `(\w+)`", text):
        assert verb in VERBS
    for path in re.findall(r"\b((?:docs|examples)/[\w./-]+\w)", text):
        assert (manual.ROOT / path).exists()


def shapes(lines: list[str]) -> list[str]:
    """Return lines without what differs from run to run: figures and their units."""
    number = re.compile(r"\d[\d,.:-]*(%| us|(?: [kMG]?| )[pb]ps\b)?")
    return [number.sub("N", line) for line in lines]


def test_top_prints_what_is_shown() -> None:
    """Each line, in this order; perhaps of more links."""
    (text,) = manual.blocks(GUIDE, "top")
    title, *shown = text.splitlines()
    command = shlex.split(title)[2:]
    with subprocess.Popen(
        [*SNABB, *command, "--json"], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout
        assert program.stdout.readline(), "no report"

        def printed() -> list[str]:
            lines = run(*SNABB, "top", "--once").splitlines()
            (begin,) = (
                i for i, line in enumerate(lines) if line.startswith(f"{program.pid} ")
            )
            end = begin + 1
            while end < len(lines) and lines[end].startswith("  "):
                end += 1
            return shapes(lines[begin:end])

        wanted = shapes(shown)

        def is_shown() -> bool:
            rest = iter(printed())
            return all(line in rest for line in wanted)

        try:
            until(is_shown, "\n".join(wanted))
            assert printed()[0] == shapes([f"{title} --json"])[0]
        finally:
            program.terminate()
