"""Programs run by a user who may nothing but what he was given; root's tests alone.

done = run_as_user("forward", "raw:a0", "null", capabilities=["CAP_NET_RAW"])
"""

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

NOBODY = 65534
HOME = Path(__file__).parents[1]


def _hidden() -> list[tuple[Path, Path]]:
    """Return what such a user needs and cannot reach, behind the closed directory."""
    found = []
    for path in {HOME, Path(sys.prefix), Path(sys.base_prefix).resolve()}:
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & 0o001:
                found.append((parent, path))
                break
    return found


def _open_doors() -> str:
    """Return a script that lets everybody pass, in a mount namespace of its own."""
    lines = ["set -e"]
    for closed in {closed for closed, _ in _hidden()}:
        lines += [
            f"mount --bind {closed} /mnt",
            f"mount -t tmpfs -o mode=755 none {closed}",
        ]
        for _, path in (pair for pair in _hidden() if pair[0] == closed):
            inside = Path("/mnt") / path.relative_to(closed)
            lines += [f"mkdir -p {path}", f"mount --bind {inside} {path}"]
        lines.append("umount /mnt")
    return "; ".join(lines)


def user_command(
    *words: str,
    capabilities: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the command that is snabb-py by such a user.

    Args:
        words: for snabb-py.
        capabilities: that he has: "CAP_NET_RAW".
        environment: of the program, beside PATH.
    """
    names = [name.removeprefix("CAP_").lower() for name in capabilities]
    only = ",".join(["-all", *(f"+{name}" for name in names)])
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(environment or {})}
    become = [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"),
        *("env", "-i", *(f"{key}={value}" for key, value in variables.items())),
        *(sys.executable, "-m", "snabb_py", *words),
    ]
    script = f"{_open_doors()}; cd {HOME}; exec {shlex.join(become)}"
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]


def run_as_user(
    *words: str,
    capabilities: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; see `user_command`."""
    return subprocess.run(
        user_command(*words, capabilities=capabilities, environment=environment),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
