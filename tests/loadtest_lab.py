"""A load test in a network namespace, a device in another, two cables between them."""

import contextlib
import subprocess
import threading

from tests.hosts import SNABB, Namespace, until


class Lab:
    """A tester with the interfaces t0 and t1, whose cables lead to d0 and d1."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.here, self.there = Namespace(), Namespace()
        stack.callback(self.there.close)
        stack.callback(self.here.close)
        for i in (0, 1):
            self.here.ip(
                f"link add t{i} type veth peer name d{i} netns {self.there.name}\n"
                f"link set t{i} up"
            )
            self.there.ip(f"link set d{i} up")
        until(lambda: "LOWER_UP" in self.here("ip", "link", "show", "t1"))

    def start(self, namespace: Namespace, *arguments: str) -> subprocess.Popen[str]:
        """Start a program of ours that ends with the test."""
        process = namespace.start(*SNABB, *arguments)
        self._stack.callback(self.end, process)
        return process

    @staticmethod
    def end(process: subprocess.Popen[str]) -> None:
        """End a program, so that it leaves nothing behind."""
        process.terminate()
        process.wait(20)

    def device(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a forwarder between the cables."""
        process = self.start(
            self.there,
            *("forward", "raw:d0", "raw:d1", "--interval", "0.1", *arguments),
        )
        assert process.stdout
        assert process.stdout.readline()  # the first report: it runs
        # The others are read, so that it never waits for a reader.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        return process

    def bridge(self, discipline: str) -> None:
        """Let Linux forward between the cables, with a queueing discipline at d1."""
        self.there.ip(
            "link add bridge0 type bridge\nlink set bridge0 up\n"
            "link set d0 master bridge0\nlink set d1 master bridge0"
        )
        self.there("tc", "qdisc", "add", "dev", "d1", "root", *discipline.split())

    def test(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a load test."""
        return self.start(self.here, "loadtest", *arguments)
