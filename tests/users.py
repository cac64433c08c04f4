"""Programs run by a user who may nothing but what he was given; root's tests alone.

    done = run_as_user("forward", "raw:a0", "null", capabilities=["CAP_NET_RAW"])

He has a /run of his own, in which instances have their directories.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

NOBODY = 65534
HOME = Path(__file__).parents[1]
RUN = "/run"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR": RUN}


def _hidden() -> dict[Path, set[Path]]:
    """Return the directories that are closed to him, with what he needs behind them."""
    found: dict[Path, set[Path]] = {}
    for path in (HOME, Path(sys.prefix), Path(sys.base_prefix).resolve()):
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                found.setdefault(parent, set()).add(path)
                break
    return found


def _prepare() -> Iterable[str]:
    """Yield shell commands that make a mount namespace fit for him."""
    yield f"mount -t tmpfs -o mode=755,uid={NOBODY} none {RUN}"
    for closed, needed in _hidden().items():
        yield f"mount --bind {closed} /mnt"
        yield f"mount -t tmpfs -o mode=755 none {closed}"
        for path in needed:
            inside = Path("/mnt") / path.relative_to(closed)
            yield f"mkdir -p {path}"
            yield f"mount --bind {inside} {path}"
        yield "umount /mnt"


def user_command(
    *words: str,
    capabilities: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    network: str | None = None,
    directory: Path = HOME,
) -> list[str]:
    """Return the command that is snabb-py by such a user.

    Args:
        words: for snabb-py.
        capabilities: that he has: "CAP_NET_RAW".
        environment: of the program, beside ENVIRONMENT.
        network: shell commands that make a network namespace; None: he has ours.
        directory: where he is.
    """
    names = [name.removeprefix("CAP_").lower() for name in capabilities]
    only = ",".join(["-all", *(f"+{name}" for name in names)])
    variables = ENVIRONMENT | {"PYTHONPATH": str(HOME)} | dict(environment or {})
    become = [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"),
        *("env", "-i", *(f"{key}={value}" for key, value in variables.items())),
        *(sys.executable, "-m", "snabb_py", *words),
    ]
    steps = [
        *_prepare(),
        network or ":",
        f"cd {directory}",
        f"exec {shlex.join(become)}",
    ]
    spaces = ["--mount", "--propagation", "private", *(["--net"] if network else [])]
    return ["unshare", *spaces, "sh", "-ec", "\n".join(steps)]


def run_as_user(
    *words: str,
    capabilities: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
    network: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; see `user_command`."""
    return subprocess.run(
        user_command(
            *words,
            capabilities=capabilities,
            environment=environment,
            network=network,
        ),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
