"""`snabb-py nfv` and whatever a user may give it: an error of ours, never a traceback.

Configs of all formats are damaged at random, by a seed. What a running instance is
asked to follow hurts no port that has traffic.
"""

import contextlib
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click
import pytest

from snabb_py.cli import cli
from snabb_py.errors import ConfigError, DeviceError, SnabbError
from snabb_py.virtio import nfv_formats
from snabb_py.virtio.nfv_config import read, write
from tests.integration.test_nfv_cli import TWO, C, counts, exchange, vm_of
from tests.nfv_program import NFV, ROOT, call, port, toml, traffic

EXAMPLES = sorted((ROOT / "examples").glob("nfv*"))
SNABBS = sorted((ROOT / "tests/data/nfv/nfvconfig").rglob("*"))
#: What mutations put in: of all three formats, and of none.
PIECES = (
    *(
        "{",
        "}",
        "[[port]]",
        "[",
        "]",
        '"',
        "'",
        "=",
        ":",
        ",",
        "--",
        "--[[",
        "\\",
        "\n",
    ),
    *("return", "nil", "true", "null", "0", "-1", "1e999", "0x", "9" * 400, "nan"),
    *("os.execute('x')", "port_id", "mac_address", "vlan", "\0", "\x1b[2J", "\ufeff"),
    *("../../etc/passwd", "%s", "%n", "\ud800", "𐍈", "[" * 200, "a." * 2000 + "b=1"),
)


def sources() -> list[tuple[str, str]]:
    """Return the names and texts of configs, each in all formats."""
    found = []
    for path in (*EXAMPLES, *SNABBS):
        if not path.is_file():
            continue
        found.append((path.suffix, path.read_text()))
        try:
            config = read(path, lambda _line: None)
        except SnabbError:
            continue
        found += [(f".{form}", write(config, form)) for form in nfv_formats.FORMATS]
    return found


def damage(rng: random.Random, text: str) -> bytes:
    """Return a text with a few places changed, as bytes that may be no text."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        at, size = rng.randint(0, len(text)), rng.choice((0, 1, 5, 40))
        other = rng.randint(0, len(text))
        piece = rng.choice((rng.choice(PIECES), text[other : other + size], ""))
        text = text[:at] + piece + text[at + rng.choice((0, size)) :]
    data = text.encode(errors="surrogatepass")
    if rng.random() < 0.1:
        at = rng.randint(0, len(data))
        data = data[:at] + rng.randbytes(rng.randint(1, 4)) + data[at:]
    return data


def damaged(seed: int, n: int) -> Iterator[tuple[random.Random, str, bytes]]:
    """Yield a generator, a suffix and a damaged config, so many times."""
    texts = sources()
    assert len(texts) > 40
    for number in range(n):
        rng = random.Random(f"{seed}/{number}")  # noqa: S311 - repeatable
        suffix, text = rng.choice(texts)
        yield rng, suffix, damage(rng, text)


def run(*arguments: str) -> None:
    """Run it here; errors are ours or click's, others are raised."""
    try:
        cli.main(["nfv", *arguments], standalone_mode=False)
    except click.ClickException as error:
        said = error.format_message()
    except (ConfigError, DeviceError) as error:
        said = str(error)
    else:
        return
    assert said, arguments


def test_check_and_qemu_take_any_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rng, suffix, data in damaged(1, 400):
        path = tmp_path / f"c{suffix}"
        path.write_bytes(data)
        run("check", str(path), *rng.choice(([], ["--json"])))
        sock = rng.choice(("%s", "x", "", "/" + "y" * 100 + "%s", "\udcff%s", "a\n%s"))
        name = rng.choice(("A", "B", "", "\udcff", "--mgmt"))
        more = rng.choice(([], ["--libvirt"], ["--memory", "\x1b[2J"]))
        run("qemu", str(path), sock, name, *more)
        capsys.readouterr()


@pytest.mark.parametrize("character", ["\n", "\x1b", "\u2028"])
def test_a_path_that_would_break_a_line(tmp_path: Path, character: str) -> None:
    conf = tmp_path / "c.toml"
    conf.write_text('[[port]]\nport_id = "A"\n')
    sock = f"{tmp_path}/a{character}b-%s.sock"
    done = call("traffic", "null", conf, sock, "--duration", "0.1")
    assert done.returncode == 2
    assert "has control characters" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_path_of_any_bytes(tmp_path: Path) -> None:
    conf = tmp_path / "c.toml"
    conf.write_text('[[port]]\nport_id = "A"\n')
    template = os.fsencode(tmp_path) + b"/\xff%s"
    done = subprocess.run(
        [*NFV, "qemu", conf, template, "A"],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "has characters that cannot be printed" in done.stderr
    done = subprocess.run(
        [*NFV, "traffic", "null", conf, template, "--duration", "0.1", "--json"],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_a_running_instance_refuses_hurts_no_port(tmp_path: Path) -> None:
    third = toml(port("C", C, vlan=44, ingress_filter="ip", queues=2))
    with traffic(tmp_path, "null", TWO) as program, ExitStack() as stack:
        a, b = (stack.enter_context(vm_of(program, name)) for name in "AB")
        n = 40
        for number in range(n):
            rng = random.Random(number)  # noqa: S311 - repeatable
            new = program.conf.with_suffix(".new")
            # The ports with traffic stay, or the file makes no sense at all.
            new.write_bytes(TWO.encode() + damage(rng, third))
            new.replace(program.conf)
            with contextlib.suppress(ConfigError):
                program.ask("reload")
            exchange(a, b, 100 * number)
        summary = program.end()
    for name in "AB":
        assert counts(summary, name, "to") == (100 * n, {})
