"""DPDK's testpmd with a virtio-user port: a guest without a virtual machine.

    with Testpmd(path, "mrg_rxbuf=0") as guest:
        ...
        guest.command("stop")

Needs neither root nor huge pages.
"""

import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE = 60


class Testpmd:
    """A guest that returns what it gets.

    Args:
        path: of the socket.
        options: of its device, "queues=2".
        arguments: of testpmd.
        mode: what it does with packets.
    """

    __test__ = False

    def __init__(
        self, path: Path, options: str = "", *arguments: str, mode: str = "io"
    ) -> None:
        self._directory = tempfile.TemporaryDirectory()
        # Two threads, on whatever CPUs there are: the kernel moves them as it likes.
        cpus = "(" + ",".join(map(str, sorted(os.sched_getaffinity(0)))) + ")"
        device = f"net_virtio_user0,path={path}{',' if options else ''}{options}"
        self._output: list[str] = []
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "stdbuf", "-oL", "dpdk-testpmd",
             "--lcores", f"0@{cpus},1@{cpus}", "--no-pci", "--no-huge", "-m", "64",
             f"--file-prefix=guest{os.getpid()}", f"--vdev={device}", "--",
             "-i", f"--forward-mode={mode}", "--auto-start", "--nb-cores=1",
             "--total-num-mbufs=4096", "--disable-link-check",
             # Otherwise it throws away what has come before it begins.
             "--no-flush-rx", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env={**os.environ, "XDG_RUNTIME_DIR": self._directory.name},
            # SIGPIPE stays ignored: DPDK 22.11 would die of a back end that goes
            # while it is being greeted.
            restore_signals=False,
        )  # fmt: skip
        self._fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # All the time: with a full pipe before it, it would stop and serve nobody.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._fresh.put(line)
        self._fresh.put(None)

    def _take(self, until: str | None = None) -> None:
        """Take output until a line begins like this; None: all that will come."""
        while line := self._fresh.get(timeout=PATIENCE):
            self._output.append(line)
            if until and line.startswith(until):
                return
        if until:
            raise AssertionError("".join(self._output))

    def command(self, *lines: str) -> None:
        """Give commands, as to its prompt; wait until it has done them."""
        self._write(*lines, "show port summary all")
        self._take("Number of available ports")

    def _write(self, *lines: str) -> None:
        assert self.process.stdin
        self.process.stdin.write("".join(f"{line}\n" for line in lines))
        self.process.stdin.flush()

    def end(self) -> str:
        """Let it end; return all that it has said."""
        self._write("quit")
        self._take()
        return "".join(self._output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self._reader.join()
        if self._fresh.qsize():
            self._take()
        self.process.communicate()
        self._directory.cleanup()
        if error:
            print("".join(self._output))
