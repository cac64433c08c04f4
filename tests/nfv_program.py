"""A running `snabb-py nfv traffic`, as a user has it; without pytest.

with traffic(tmp_path, "sim,wire=null", toml(port("A", MAC))) as program:
    program.change(toml(port("A", MAC, vlan=43)))
    summary = program.end()
"""

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snabb_py.engine import control
from snabb_py.engine.shm import runtime_directory

NFV = [sys.executable, "-m", "snabb_py", "nfv"]
ROOT = Path(__file__).parents[1]
#: Seconds for a line of stderr, and for the end.
PATIENCE = 60


def toml(*ports: dict[str, Any]) -> str:
    """Return a config of these ports."""
    lines = []
    for keys in ports:
        lines.append("[[port]]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def port(name: str, mac: bytes, **keys: Any) -> dict[str, Any]:
    """Return the keys of a port with an address."""
    return {"port_id": name, "mac_address": mac.hex(":"), **keys}


class Program:
    """A running `nfv traffic` with its config and sockets in a directory.

    Args:
        directory: where they are; the sockets are its `NAME.sock`.
        trunk: what the ports are joined to.
        text: of the config.
        arguments: further ones.
        nports: ports that it has in the beginning, which are waited for.
        suffix: of the config.
    """

    def __init__(
        self,
        directory: Path,
        trunk: str,
        text: str,
        *arguments: str,
        nports: int = 2,
        suffix: str = ".toml",
    ) -> None:
        self.conf = directory / f"ports{suffix}"
        self.conf.write_text(text)
        self.directory = directory
        self.process = subprocess.Popen(
            [*NFV, "traffic", trunk, str(self.conf), str(directory / "%s.sock"),
             "--json", "-l", "0", "-k", "0", "-D", "0", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=directory,
        )  # fmt: skip
        self.lines: list[str] = []
        self._fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # Somebody must read them, however many there are, or it would wait.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        for _ in range(nports):
            self.wait_for_line('snabb-py: port "')

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._fresh.put(line)
        self._fresh.put(None)

    def wait_for_line(self, text: str) -> str:
        """Return the next line of stderr that has a text in it."""
        while line := self._fresh.get(timeout=PATIENCE):
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(self.lines)

    def socket(self, name: str) -> Path:
        """Return the path of a port's socket."""
        return self.directory / f"{name}.sock"

    def write(self, text: str) -> None:
        """Change the config as an editor does."""
        new = self.conf.with_suffix(".new")
        new.write_text(text)
        new.replace(self.conf)

    def change(self, text: str) -> str:
        """Change the config and let it be read; the answer."""
        self.write(text)
        return str(self.ask("reload"))

    def ask(self, verb: str) -> Any:
        """Ask at the control socket."""
        path = runtime_directory() / str(self.process.pid) / "control"
        return control.call(path, verb)

    def end(self, number: int = signal.SIGTERM) -> dict[str, Any]:
        """End it by a signal and return the summary."""
        self.process.send_signal(number)
        return self.finish()

    def finish(self) -> dict[str, Any]:
        """Wait for its end and return the summary."""
        assert self.process.stdout
        out = self.process.stdout.read()
        self.process.wait(PATIENCE)
        self._reader.join()
        while line := self._fresh.get():
            self.lines.append(line)
        assert self.process.returncode == 0, self.lines
        assert not any("Traceback" in line for line in self.lines), self.lines
        summary: dict[str, Any] = json.loads(out.splitlines()[-1])
        return summary

    def close(self) -> None:
        """Kill it, if it still runs."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream
            stream.close()


@contextmanager
def traffic(
    directory: Path, trunk: str, text: str, *arguments: str, **others: Any
) -> Iterator[Program]:
    """Run a program until the end of a block; see `Program`."""
    program = Program(directory, trunk, text, *arguments, **others)
    try:
        yield program
    finally:
        program.close()
