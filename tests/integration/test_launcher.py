"""The head of the single file: what it unpacks, where, and what it refuses to run.

What it runs here is a script in place of all that PyInstaller gathers.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requirements import need

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "scripts" / "dist" / "build"
SCRIPT = """#!/bin/bash
if [ "$1" = wait ]; then echo waiting; read; fi
echo "{version} $*"
cat "$(dirname "$0")"/a/long/way/down
exit 7
"""
NOBODY = 65534


def packed(directory: Path, version: str) -> Path:
    """Return a single file of this version; about 2 MiB unpacked."""
    gathered, file = directory / version, directory / f"file-{version}"
    (gathered / "a" / "long" / "way").mkdir(parents=True)
    (gathered / "a" / "long" / "way" / "down").write_text("found\n")
    (gathered / "random").write_bytes(os.urandom(2**21))
    (gathered / "link").symlink_to("a/long")
    program = gathered / "snabb-py"
    program.write_text(SCRIPT.format(version=version))
    program.chmod(0o755)
    subprocess.run(
        [sys.executable, BUILD, "--gathered", gathered, file],
        check=True,
        capture_output=True,
    )
    return file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two versions; also made: all that building needs is asked for here."""
    need("dist")
    directory = tmp_path_factory.mktemp("packed")
    return packed(directory, "one"), packed(directory, "two")


@pytest.fixture
def file(files: tuple[Path, Path]) -> Path:
    return files[0]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """Return where the caches of this test are to lie."""
    path = tmp_path / "cache"
    yield path
    # What is in it belongs to whom it was made by, or to nobody.
    subprocess.run(["rm", "-rf", path], check=True)


def call(file: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [file, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )


def assert_runs(done: subprocess.CompletedProcess[str], version: str = "one") -> None:
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout == f"{version} a b\nfound\n"


def assert_fails(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("snabb-py: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_it_unpacks_once(file: Path, cache: Path) -> None:
    assert_runs(call(file, cache, "a", "b"))
    (unpacked,) = (cache / "snabb-py").iterdir()
    assert len(unpacked.name) == 64
    before = unpacked.stat()
    assert before.st_mode & 0o7777 == 0o700
    assert (unpacked / "link").readlink() == Path("a/long")
    assert (unpacked / "random").stat().st_mode & 0o7777 == 0o600
    assert_runs(call(file, cache, "a", "b"))
    assert [path.name for path in (cache / "snabb-py").iterdir()] == [unpacked.name]
    assert unpacked.stat().st_ino == before.st_ino
    assert unpacked.stat().st_ctime_ns == before.st_ctime_ns


def test_the_program_knows_its_name(file: Path, cache: Path, tmp_path: Path) -> None:
    link = tmp_path / "lwaftr"
    link.symlink_to(file)
    # Of a script the kernel tells the interpreter its path, not the name of the call;
    # an ELF gets it. So another program stands in the script's place.
    call(file, cache)
    (unpacked,) = (cache / "snabb-py").iterdir()
    (unpacked / "snabb-py").unlink()
    (unpacked / "snabb-py").symlink_to("/bin/cat")
    done = call(link, cache, "/proc/self/cmdline")
    assert done.stdout == f"{link}\0/proc/self/cmdline\0"


def test_many_begin_at_once(file: Path, cache: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    programs = [
        subprocess.Popen(
            [file, "a", "b"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(20)
    ]
    for program in programs:
        assert program.communicate() == ("one a b\nfound\n", "")
    assert len(list((cache / "snabb-py").iterdir())) == 1


def test_a_new_version_removes_the_old_when_nobody_runs_it(
    files: tuple[Path, Path], cache: Path
) -> None:
    old, new = files
    with subprocess.Popen(
        [old, "wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "waiting\n"
        assert_runs(call(new, cache, "a", "b"), "two")
        assert len(list((cache / "snabb-py").iterdir())) == 2
        output, _ = running.communicate("\n")
    assert output == "one wait\nfound\n"
    (cache / "snabb-py" / ".unpacking-1").mkdir(mode=0o700)
    assert_runs(call(old, cache, "a", "b"))  # has been unpacked, and so nothing is done
    assert len(list((cache / "snabb-py").iterdir())) == 3
    subprocess.run(["rm", "-rf", *(cache / "snabb-py").glob("[0-9a-f]*")], check=True)
    for version, file in zip(("one", "two"), files, strict=True):
        assert_runs(call(file, cache, "a", "b"), version)
    assert len(list((cache / "snabb-py").iterdir())) == 1


def test_killed_while_it_unpacks(file: Path, cache: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    unfinished = 0
    for i in range(40):
        with subprocess.Popen(
            [file, "a", "b"], stdout=subprocess.DEVNULL, env=environment
        ) as program:
            time.sleep(i * 0.0005)
            program.send_signal(signal.SIGKILL)
        entries = list((cache / "snabb-py").glob("*"))
        unfinished += any(path.name.startswith(".") for path in entries)
        for path in entries:
            if not path.name.startswith("."):
                # A killed one leaves all of it, or nothing under this name.
                assert (path / "snabb-py").exists()
                subprocess.run(["rm", "-rf", path], check=True)
    assert unfinished
    assert_runs(call(file, cache, "a", "b"))
    assert len(list((cache / "snabb-py").iterdir())) == 1


@pytest.mark.need("root")
@pytest.mark.parametrize("place", ["", "/{hash}"])
def test_what_another_user_planted_is_refused(
    file: Path, cache: Path, place: str
) -> None:
    call(file, cache)
    (unpacked,) = (cache / "snabb-py").iterdir()
    planted = Path(f"{cache}/snabb-py{place.format(hash=unpacked.name)}")
    (unpacked / "snabb-py").write_text("#!/bin/sh\necho planted\n")
    os.chown(planted, NOBODY, NOBODY)
    assert_fails(call(file, cache), str(planted), f"user {NOBODY}", "not used")


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_what_others_may_change_is_refused(file: Path, cache: Path, mode: int) -> None:
    call(file, cache)
    (unpacked,) = (cache / "snabb-py").iterdir()
    unpacked.chmod(mode)
    assert_fails(call(file, cache), f"mode {mode:04o}", "not used")


def test_a_link_is_not_followed(file: Path, cache: Path, tmp_path: Path) -> None:
    call(file, cache)
    (unpacked,) = (cache / "snabb-py").iterdir()
    moved = unpacked.rename(tmp_path / "moved")
    unpacked.symlink_to(moved)
    assert_fails(call(file, cache), "cannot open", str(unpacked))


@pytest.mark.need("root")
def test_without_a_home(file: Path) -> None:
    caches = Path(f"/var/tmp/snabb-py-{NOBODY}")  # noqa: S108 - that is the place
    assert not caches.exists()
    done = subprocess.run(
        ["setpriv", "--reuid", str(NOBODY), "--clear-groups", file, "a", "b"],
        check=False,
        capture_output=True,
        text=True,
        env={},
    )
    try:
        assert_runs(done)
        assert caches.stat().st_uid == NOBODY
    finally:
        subprocess.run(["rm", "-rf", caches], check=True)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_damage_is_found(file: Path, cache: Path, tmp_path: Path, place: float) -> None:
    data = bytearray(file.read_bytes())
    begin = len(data) - 2**21  # most of the archive, which cannot be compressed
    data[begin + int(place * 2**21)] ^= 1
    damaged = tmp_path / "damaged"
    damaged.write_bytes(data)
    damaged.chmod(0o755)
    assert_fails(call(damaged, cache), "damaged")
    assert list((cache / "snabb-py").iterdir()) == []


@pytest.mark.parametrize("cut", [1, 80, 10000])
def test_half_a_file_says_so(file: Path, cache: Path, tmp_path: Path, cut: int) -> None:
    half = tmp_path / "half"
    half.write_bytes(file.read_bytes()[:-cut])
    half.chmod(0o755)
    assert_fails(call(half, cache), "damaged")


@pytest.mark.need("root", "netns")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=64k", ["No space left on device", "XDG_CACHE_HOME"]),
        ("noexec", ["cannot run", "Permission denied", "XDG_CACHE_HOME"]),
        ("ro", ["cannot make", "Read-only file system"]),
    ],
)
def test_a_place_that_will_not_do(
    file: Path, cache: Path, options: str, words: list[str]
) -> None:
    cache.mkdir()
    script = f"""
        mount -t tmpfs -o {options} none "$XDG_CACHE_HOME" || exit
        "$0"
        status=$?
        ls -A "$XDG_CACHE_HOME"/snabb-py 2>/dev/null
        exit $status
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, file],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )
    if options == "noexec":
        done.stdout = ""  # it was unpacked well
    assert_fails(done, *words)
