"""The head of the single file: what it unpacks, where, and what it refuses to run.

What it runs here is a script in place of all that PyInstaller gathers.
"""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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


#: Below the user's cache.
PLACE = Path("snabb-py", "unpacked")


def packed(directory: Path, version: str, program: Path | None = None) -> Path:
    """Return a single file of this version; about 2 MiB unpacked.

    Args:
        directory: where it is made.
        version: its name.
        program: what it runs in place of `SCRIPT`.
    """
    gathered, file = directory / version, directory / f"file-{version}"
    (gathered / "a" / "long" / "way").mkdir(parents=True)
    (gathered / "a" / "long" / "way" / "down").write_text("found\n")
    (gathered / "random").write_bytes(os.urandom(2**21))
    (gathered / "link").symlink_to("a/long")
    start = gathered / "snabb-py"
    if program:
        start.symlink_to(program)
    else:
        start.write_text(SCRIPT.format(version=version))
        start.chmod(0o755)
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
    (unpacked,) = (cache / PLACE).iterdir()
    assert len(unpacked.name) == 64
    before = unpacked.stat()
    assert before.st_mode & 0o7777 == 0o700
    assert (unpacked / "link").readlink() == Path("a/long")
    assert (unpacked / "random").stat().st_mode & 0o7777 == 0o600
    assert_runs(call(file, cache, "a", "b"))
    assert [path.name for path in (cache / PLACE).iterdir()] == [unpacked.name]
    assert unpacked.stat().st_ino == before.st_ino
    assert unpacked.stat().st_ctime_ns == before.st_ctime_ns


@pytest.mark.need("dist")
def test_the_program_knows_its_name(cache: Path, tmp_path: Path) -> None:
    # Of a script the kernel tells the interpreter its path, not the name of the call;
    # an ELF gets it. So another program stands in the script's place.
    link = tmp_path / "lwaftr"
    link.symlink_to(packed(tmp_path, "cat", Path("/bin/cat")))
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
    assert len(list((cache / PLACE).iterdir())) == 1


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
        assert len(list((cache / PLACE).iterdir())) == 2
        output, _ = running.communicate("\n")
    assert output == "one wait\nfound\n"
    (cache / PLACE / ".unpacking-1").mkdir(mode=0o700)
    assert_runs(call(old, cache, "a", "b"))  # has been unpacked, and so nothing is done
    assert len(list((cache / PLACE).iterdir())) == 3
    subprocess.run(["rm", "-rf", *(cache / PLACE).glob("[0-9a-f]*")], check=True)
    for version, file in zip(("one", "two"), files, strict=True):
        assert_runs(call(file, cache, "a", "b"), version)
    assert len(list((cache / PLACE).iterdir())) == 1


def test_killed_while_it_unpacks(file: Path, cache: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    unfinished = 0
    for i in range(40):
        with subprocess.Popen(
            [file, "a", "b"], stdout=subprocess.DEVNULL, env=environment
        ) as program:
            time.sleep(i * 0.0005)
            program.send_signal(signal.SIGKILL)
        entries = list((cache / PLACE).glob("*"))
        unfinished += any(path.name.startswith(".") for path in entries)
        for path in entries:
            if not path.name.startswith("."):
                # A killed one leaves all of it, or nothing under this name.
                assert (path / "snabb-py").exists()
                subprocess.run(["rm", "-rf", path], check=True)
    assert unfinished
    assert_runs(call(file, cache, "a", "b"))
    assert len(list((cache / PLACE).iterdir())) == 1


@pytest.mark.need("root")
@pytest.mark.parametrize(
    "place", ["snabb-py", "snabb-py/unpacked", "snabb-py/unpacked/{hash}"]
)
def test_what_another_user_planted_is_refused(
    file: Path, cache: Path, place: str
) -> None:
    call(file, cache)
    (unpacked,) = (cache / PLACE).iterdir()
    planted = Path(f"{cache}/{place.format(hash=unpacked.name)}")
    (unpacked / "snabb-py").write_text("#!/bin/sh\necho planted\n")
    os.chown(planted, NOBODY, NOBODY)
    assert_fails(
        call(file, cache), str(planted), f"user {NOBODY}", "not used", "XDG_CACHE_HOME"
    )


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
@pytest.mark.parametrize("above", [0, 1, 2])
def test_what_others_may_change_is_refused(
    file: Path, cache: Path, above: int, mode: int
) -> None:
    call(file, cache)
    (unpacked,) = (cache / PLACE).iterdir()
    place = [unpacked, *unpacked.parents][above]
    place.chmod(mode)
    assert_fails(
        call(file, cache), f"mode {mode:04o}", "not used", f"`chmod 700 {place}"
    )


def test_others_may_see_what_lies_beside_it(file: Path, cache: Path) -> None:
    guest = cache / "snabb-py" / "guest"
    guest.mkdir(parents=True)
    (cache / "snabb-py").chmod(0o755)
    assert_runs(call(file, cache, "a", "b"))
    assert (cache / PLACE).stat().st_mode & 0o7777 == 0o700
    assert guest.exists()


@pytest.mark.need("root")
@pytest.mark.parametrize("mask", [0, 0o777])
def test_any_umask_will_do(file: Path, mask: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        os.chown(home, NOBODY, NOBODY)
        for _ in range(2):
            done = subprocess.run(
                ["setpriv", "--reuid", str(NOBODY), "--clear-groups", file, "a", "b"],
                check=False,
                capture_output=True,
                text=True,
                env={"HOME": home, "PATH": os.environ["PATH"]},
                umask=mask,
            )
            assert_runs(done)
        (unpacked,) = (Path(home) / ".cache" / PLACE).iterdir()
        for path in (unpacked, *unpacked.parents[:3]):
            assert path.stat().st_mode & 0o7777 == 0o700


def damage_size(unpacked: Path) -> None:
    (unpacked / "random").write_text("x\n")


def damage_byte(unpacked: Path) -> None:
    with (unpacked / "random").open("r+b") as file:
        file.write(b"x")


def damage_missing(unpacked: Path) -> None:
    (unpacked / "a" / "long" / "way" / "down").unlink()


@pytest.mark.parametrize("damage", [damage_size, damage_byte, damage_missing])
def test_a_damaged_cache_is_made_anew(
    file: Path, cache: Path, damage: Callable[[Path], None]
) -> None:
    call(file, cache)
    (unpacked,) = (cache / PLACE).iterdir()
    damage(unpacked)
    running = os.open(unpacked, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(running, fcntl.LOCK_SH)
        for _ in range(2):
            assert_runs(call(file, cache, "a", "b"))
        # Who runs out of the old one keeps it.
        assert len(list((cache / PLACE).iterdir())) == 2
    finally:
        os.close(running)
    assert (unpacked / "random").stat().st_size == 2**21
    damage(unpacked)
    assert_runs(call(file, cache, "a", "b"))
    assert list((cache / PLACE).iterdir()) == [unpacked]


def test_a_link_is_not_followed(file: Path, cache: Path, tmp_path: Path) -> None:
    call(file, cache)
    (unpacked,) = (cache / PLACE).iterdir()
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


@pytest.mark.need("root")
def test_root_leaves_nothing_in_a_user_s_home(file: Path, tmp_path: Path) -> None:
    home, caches = tmp_path / "home", Path("/var/tmp/snabb-py-0")  # noqa: S108 - there
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    was_there = caches.exists()
    for cache in ({}, {"XDG_CACHE_HOME": f"{home}/.cache"}):
        done = subprocess.run(
            [file, "a", "b"],
            check=False,
            capture_output=True,
            text=True,
            env={"HOME": str(home), "PATH": os.environ["PATH"], **cache},
        )
        assert_runs(done)
        assert not list(home.iterdir())
        assert list((caches / "unpacked").iterdir())
    if not was_there:
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
    assert list((cache / PLACE).iterdir()) == []


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
        ls -A "$XDG_CACHE_HOME"/snabb-py/unpacked 2>/dev/null
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
