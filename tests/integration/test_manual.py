"""The manual says what there is, all of it, and nothing else; what it shows works."""

import dataclasses
import importlib
import pkgutil
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import snabb_py
from snabb_py.engine import counter
from snabb_py.engine.app import App
from snabb_py.engine.control import call
from snabb_py.engine.shm import runtime_directory
from snabb_py.errors import ConfigError
from snabb_py.lwaftr import conf, conf_properties, conf_statements
from snabb_py.lwaftr.conf_statements import TABLE, Many, Schema
from snabb_py.lwaftr.conf_types import LwaftrConfig
from snabb_py.nic import vfio_connection
from snabb_py.virtio import connection, nfv_config, nfv_keys
from tests import manual
from tests.lwaftr_deviations import DEVIATIONS

#: A number as the manual writes it: 20, 2^40, 2^32-1.
_NUMBER = r"[\d^-]+"
_RANGE = re.compile(rf"({_NUMBER}) to ({_NUMBER})")


def number(text: str) -> int:
    base, _, power = text.partition("^")
    exponent, _, less = power.partition("-")
    return int(int(base) ** int(exponent or 1)) - int(less or 0)


def bounds(text: str) -> tuple[int, int] | None:
    """Return the range that a cell begins with; None: it does not."""
    match = _RANGE.match(text)
    return (number(match[1]), number(match[2])) if match else None


# -- counters ------------------------------------------------------------------


def app_classes(cls: type[App] = App) -> Iterator[type[App]]:
    """Yield all app classes of the package."""
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("snabb_py."):
            yield sub
        yield from app_classes(sub)


def all_counters() -> dict[str, tuple[str, ...]]:
    """Return the counters of everything that has any, by what the manual calls it."""
    for module in pkgutil.walk_packages(snabb_py.__path__, "snabb_py."):
        if module.name not in {"snabb_py.__main__", "snabb_py.native_build"}:
            importlib.import_module(module.name)
    found = {cls.__name__: cls.counters for cls in app_classes() if cls.counters}
    return found | {
        "Links": counter.LINK,
        "Workers": counter.WORKER,
        "PythonApp": counter.PYTHON_APP,
        "sim82599": vfio_connection.COUNTERS,
        "nfv traffic": connection.COUNTERS,
    }


def test_each_counter_is_there_once_where_it_belongs() -> None:
    documented: dict[str, Counter[str]] = defaultdict(Counter)
    for row in manual.rows("counters.md"):
        assert row.cells[0], row
        for owner in manual.code(row.heading) or (row.heading,):
            documented[owner].update(row.names)
    assert documented == {k: Counter(v) for k, v in all_counters().items()}


def test_the_gauges_named_are_counters() -> None:
    (line,) = re.findall(
        r"\*\*Gauges\*\*.*?\n\n", manual.read("counters.md"), re.DOTALL
    )
    names = {name for names in all_counters().values() for name in names}
    assert set(manual.code(line)) <= names


def test_counters_are_read_as_shown(tmp_path: Path) -> None:
    (script,) = manual.write_files("counters.md", tmp_path)
    ((_, instance),) = manual.commands("counters.md", "python")
    example = manual.ROOT / "examples" / "lwaftr.conf"
    program = subprocess.Popen(
        [sys.executable, "-m", "snabb_py", "lwaftr", "run", f"--conf={example}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        directory = runtime_directory() / str(program.pid)
        control = directory / "control"
        while not (control.exists() and call(control, "counters")["apps"]):
            assert program.poll() is None
            time.sleep(0.01)
        assert Path(instance).parent == Path("/run/snabb-py")
        shown = subprocess.run(
            [sys.executable, script, directory],
            check=True, stdout=subprocess.PIPE, text=True, timeout=60,
        ).stdout  # fmt: skip
        assert "workers/0/breath-gap-ns" in shown
        assert "apps/lwaftr" in shown
        (query,) = manual.commands("counters.md")
        assert f"process {program.pid}" in manual.run(query, tmp_path)
    finally:
        program.terminate()
        program.wait(timeout=60)


# -- nfv -----------------------------------------------------------------------

#: What stands for a default that is no value of the key's.
NO_VALUE = {
    "none", "all", "no limit", "not told", "as `--client` says",
    "250 ms of the limit", "must be there",
}  # fmt: skip


def nfv_rows() -> Iterator[manual.Row]:
    return (row for row in manual.rows("nfv.md") if row.heading == "Keys")


def test_each_key_of_nfv_is_there_once() -> None:
    names = Counter(name for row in nfv_rows() for name in row.names)
    keys = (*nfv_keys.KEYS, *nfv_keys.IGNORED, *nfv_keys.REFUSED)
    assert names == Counter(keys)


@pytest.mark.parametrize(
    "row", [row for row in nfv_rows() if len(row.cells) == 3], ids=lambda r: r.names[0]
)
def test_what_is_said_of_a_key_of_nfv(row: manual.Row) -> None:
    (name,), (value, default, _) = row.names, row.cells
    key = nfv_keys.KEYS[name]
    assert not key.replacement
    absent = next(
        field.default
        for field in dataclasses.fields(nfv_config.PortConfig)
        if field.name == key.field
    )
    if default in NO_VALUE:
        assert absent in {None, (), ""} or absent is dataclasses.MISSING
        assert (absent is dataclasses.MISSING) == (default == "must be there")
    else:
        words = {"true": True, "false": False}
        given = words[default] if default in words else int(default)
        assert key.convert(given) == absent
    if (found := bounds(value)) and name != "port_id":
        low, high = found
        key.convert(low)
        key.convert(high)
        for wrong in (low - 1, high + 1):
            with pytest.raises(ConfigError):
                key.convert(wrong)


def test_the_police_and_names_of_nfv() -> None:
    convert = nfv_keys.KEYS["rx_police"].convert
    (most,) = {
        row.cells[0]
        for row in nfv_rows()
        if row.names in {("rx_police",), ("tx_police",)}
    }
    assert most == f"up to {nfv_keys.POLICE_MAX} Gb/s"
    assert convert(nfv_keys.POLICE_MAX) == nfv_keys.POLICE_MAX
    (length,) = (row.cells[0] for row in nfv_rows() if row.names == ("port_id",))
    assert length == f"1 to {nfv_keys.ID_MAX} characters"


def test_examples_of_nfv_are_accepted(tmp_path: Path) -> None:
    manual.write_files("nfv.md", tmp_path)
    forms = []
    for form in ("toml", "lua", "json"):
        for n, text in enumerate(manual.blocks("nfv.md", form)):
            path = tmp_path / f"{n}.{form}"
            path.write_text(text)
            assert manual.run(["nfv", "check", str(path)], tmp_path)
        warnings: list[str] = []
        forms.append(nfv_config.read(tmp_path / f"0.{form}", warnings.append))
        assert warnings == []
    assert forms[0] == forms[1] == forms[2]


@pytest.mark.parametrize("arguments", manual.commands("nfv.md"), ids=" ".join)
def test_commands_of_nfv_work(arguments: list[str], tmp_path: Path) -> None:
    manual.write_files("nfv.md", tmp_path)
    assert manual.run(arguments, tmp_path)


# -- lwaftr: snabb-softwire-v3 -----------------------------------------------------

V3 = """softwire-config {{
  {root}
  instance {{ device d; queue {{ id 0;
    external-interface {{ ip 192.0.2.1; mac 02:00:00:00:00:04;
      next-hop {{ mac 02:00:00:00:01:04; }} }}
    internal-interface {{ ip 2001:db8::1; mac 02:00:00:00:00:06;
      next-hop {{ mac 02:00:00:00:01:06; }} }} }} }}
  external-interface {{ {external} }}
  internal-interface {{ {internal} }}
  binding-table {{ {table} }}
}}
"""
SIDES = ("external", "internal")
SECTIONS = {
    "Who we are: `softwire-config`, `instance`, `queue`": ("",),
    "What holds on both sides: `external-interface`, `internal-interface`": (
        "external-interface/",
        "internal-interface/",
    ),
    "What holds inside only: `internal-interface`": ("internal-interface/",),
    "Who has what: `binding-table`": ("binding-table/",),
}


def read_v3(tmp_path: Path, **parts: str) -> LwaftrConfig:
    path = tmp_path / "v3.conf"
    given = {"root": "", "external": "", "internal": "", "table": ""} | parts
    path.write_text(V3.format(**given))
    return conf.read(path)


def leaves(schema: Schema, prefix: str = "") -> Iterator[str]:
    """Yield the paths of all leaves but those of the binding table."""
    for key, what in schema.items():
        inner = what.schema if isinstance(what, Many) else what
        if isinstance(inner, dict):
            yield from leaves(inner, f"{prefix}{key}/")
        elif inner is not TABLE:
            yield prefix + key


def table_leaves(tmp_path: Path) -> Iterator[str]:
    """Yield those of the binding table, as it says itself when asked for another."""
    for block, (text, blocks) in {
        "": ("{}", {"softwire", "version"}),
        "version/": ("version {{ {} }}", set[str]()),
        "softwire/": ("softwire {{ {} }}", {"port-set"}),
        "softwire/port-set/": ("softwire {{ port-set {{ {} }} }}", set[str]()),
    }.items():
        with pytest.raises(ConfigError) as caught:
            read_v3(tmp_path, table=text.format("qqq 1;"))
        known = set(str(caught.value).partition("known: ")[2].split(", "))
        assert known >= blocks
        yield from (f"binding-table/{block}{key}" for key in known - blocks)


def test_each_leaf_of_v3_is_there_once(tmp_path: Path) -> None:
    documented = Counter(
        prefix + name
        for row in manual.rows("lwaftr.md")
        for prefix in SECTIONS.get(row.heading, ())
        for name in row.names
    )
    schema = conf_statements.SCHEMA["softwire-config"]
    assert documented == Counter([*leaves(schema), *table_leaves(tmp_path)])


def side_rows() -> list[tuple[str, str, str, str]]:
    """Return side, leaf, value and default of what holds for a side."""
    found = []
    for row in manual.rows("lwaftr.md"):
        for prefix in SECTIONS.get(row.heading, ()):
            side = prefix.partition("-")[0]
            if side in SIDES:
                cells = (cell.split("; internal ") for cell in row.cells[:2])
                value, default = (c[-1] if side == "internal" else c[0] for c in cells)
                found.append((side, row.names[0], value, default))
    return found


def statement(leaf: str, value: object) -> str:
    outer, _, name = leaf.rpartition("/")
    return f"{outer} {{ {name} {value}; }}" if outer else f"{name} {value};"


@pytest.mark.parametrize(("side", "leaf", "value", "default"), side_rows())
def test_what_is_said_of_a_leaf(
    side: str, leaf: str, value: str, default: str, tmp_path: Path
) -> None:
    def given(what: object) -> object:
        config = read_v3(tmp_path, **{side: statement(leaf, what)})
        return config.external, config.internal

    if default not in NO_VALUE:
        absent = read_v3(tmp_path)
        assert given(default) == (absent.external, absent.internal)
    if found := bounds(value):
        low, high = found
        assert given(low) != given(high) or default == "none"
        for wrong in (low - 1, high + 1):
            with pytest.raises(ConfigError):
                given(wrong)


# -- lwaftr: lwaftr.conf -----------------------------------------------------------

OLD = {
    "aftr_ipv4_ip": "192.0.2.1",
    "aftr_mac_inet_side": "02:00:00:00:00:04",
    "inet_mac": "02:00:00:00:01:04",
    "aftr_ipv6_ip": "2001:db8::1",
    "aftr_mac_b4_side": "02:00:00:00:00:06",
    "next_hop6_mac": "02:00:00:00:01:06",
}


def old_rows() -> list[manual.Row]:
    heading = "`lwaftr.conf` and its binding table"
    return [row for row in manual.rows("lwaftr.md") if row.heading == heading]


def read_old(tmp_path: Path, table: Path, **more: str) -> LwaftrConfig:
    path = tmp_path / "old.conf"
    path.write_text("".join(f"{k} = {v}\n" for k, v in (OLD | more).items()))
    return conf.read(path, table=table)


def test_each_key_of_the_old_format_is_there_once(tmp_path: Path) -> None:
    documented = Counter(name for row in old_rows() for name in row.names)
    table = ["psid_map", "br_addresses", "softwires"]
    for text in (
        "psid_map { 192.0.2.1 { qqq = 1 } }",
        "psid_map {} br_addresses {} softwires { { qqq = 1 } }",
    ):
        path = tmp_path / "table"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            conf.read_table(path)
        table += str(caught.value).partition("known: ")[2].split(", ")
    assert documented == Counter([*conf_properties.KEYS, *table])


@pytest.mark.parametrize(
    "row",
    [row for row in old_rows() if row.names[0] in conf_properties.KEYS],
    ids=lambda row: row.names[0],
)
def test_what_is_said_of_an_old_key(row: manual.Row, tmp_path: Path) -> None:
    table = manual.ROOT / "examples" / "binding.table"
    (name,), (value, default, _) = row.names, row.cells

    def given(**more: str) -> object:
        config = read_old(tmp_path, table, **more)
        return config.external, config.internal, config.instances

    if default in {"must be there", "must be there, or `--bt`"}:
        assert name in OLD or name == "binding_table"
    elif default[0].isdigit() or default in {"true", "false", "ALLOW"}:
        assert given(**{name: default}) == given()
    if found := bounds(value):
        for wrong in (found[0] - 1, found[1] + 1):
            with pytest.raises(ConfigError):
                given(**{name: str(wrong)})


# -- lwaftr: what is shown -----------------------------------------------------------


def test_examples_of_the_lwaftr_are_read(tmp_path: Path) -> None:
    paths = manual.write_files("lwaftr.md", tmp_path)
    names = {path.name for path in paths}
    assert names == {"softwires.conf", "lwaftr.conf", "binding.table"}
    for compat in (False, True):
        for name in ("softwires.conf", "lwaftr.conf"):
            assert len(conf.read(tmp_path / name, compat=compat).binding_table) == 2


def test_all_deviations_of_snabb_are_named() -> None:
    section = manual.read("lwaftr.md").partition("## What Snabb does otherwise")[2]
    standards = {
        standard
        for deviation in DEVIATIONS.values()
        for standard in re.findall(r"RFC \d+|802\.1Q", deviation.why)
    }
    assert {standard for standard in standards if standard not in section} == set()


def test_commands_of_the_lwaftr_work(tmp_path: Path) -> None:
    from snabb_py.cli.lwaftr_options import write_frames

    manual.write_files("lwaftr.md", tmp_path)
    for name in ("v4.pcap", "v6.pcap"):
        write_frames(tmp_path / name, [])
    found = manual.commands("lwaftr.md")
    assert len(found) == 5
    for arguments in found:
        manual.run(arguments, tmp_path)
    # Each side asks for its next hop, or knows it.
    assert (tmp_path / "v4-out.pcap").stat().st_size > 24
