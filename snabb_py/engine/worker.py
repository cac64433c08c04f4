"""Worker: a thread that breathes, and the plans it is given.

Python's half of `struct worker`. The thread is inside `worker_run` from its start to
its end and holds no GIL. Imports memory, plan, shm and the extension.
"""

import errno
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from snabb_py._native import ffi, lib
from snabb_py.engine import counter
from snabb_py.engine.app import App
from snabb_py.engine.config import AppSpec, LinkSpec
from snabb_py.engine.memory import new_aligned
from snabb_py.engine.plan import Network, breath_order, port_order
from snabb_py.engine.python_app import Runner
from snabb_py.engine.resources import Lease
from snabb_py.engine.shm import Counters, Row
from snabb_py.engine.thread import start_thread
from snabb_py.errors import AppError, ConfigError, DeviceError

if TYPE_CHECKING:
    from threading import Thread

    from snabb_py.engine.capture import Capture


@dataclass(eq=False)
class RunningApp:
    """An app of a network, built: what the engine keeps alive for the worker."""

    name: str
    spec: AppSpec
    instance: App
    ops: Any
    state: Any
    app: Any  # struct app *
    row: Row | None
    lease: Lease
    runner: Runner | None = None

    @property
    def counters(self) -> dict[str, int]:
        """The app's counters by name."""
        return self.row.as_dict() if self.row else {}


@dataclass(eq=False)
class RunningLink:
    """A link of a network, built."""

    spec: LinkSpec
    link: Any  # struct link *
    row: Row

    @property
    def counters(self) -> dict[str, int]:
        """The link's counters by name."""
        return self.row.as_dict()


def parse_cpus(text: str) -> list[int]:
    """Return the CPUs of a list such as "2", "0,3" or "4-7".

    Raises:
        ConfigError: the text has another form, or a CPU is there twice.
    """
    cpus: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:\s*-\s*(\d{1,5}))?\s*", part, re.ASCII)
        if not match:
            raise ConfigError(
                f'CPU list "{text}": "{part}" is no CPU; expected "2", "0,3" or "4-7"'
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise ConfigError(
                f'CPU list "{text}": {part.strip()} begins behind its end'
            )
        cpus += range(low, high + 1)
    for i, cpu in enumerate(cpus):
        if cpu in cpus[:i]:
            raise ConfigError(f'CPU list "{text}": CPU {cpu} is there twice')
    return cpus


def check_cpu(cpu: int) -> None:
    """Refuse a CPU that we cannot run on.

    Raises:
        ConfigError: there is no such CPU, or it is not among those we may use.
    """
    before = os.sched_getaffinity(0)
    try:
        # Tried, not looked up: the CPUs that isolcpus keeps free are not among those
        # that a process is born with, and are there for whoever asks for them.
        os.sched_setaffinity(0, {cpu})
    except (OSError, ValueError, OverflowError):
        names = ", ".join(map(str, sorted(before)))
        raise ConfigError(
            f"CPU {cpu}: not among the CPUs we may run on ({names})"
        ) from None
    os.sched_setaffinity(0, before)


class Worker:
    """One worker.

    Args:
        number: its place in the engine.
        pool: `struct pool *`.
        counters: where its rows go.
        cpu: to pin it to, or None.
        burst: most packets that one pull brings in.
        busy: never sleep.
        breath_ns: modelled time: what each breath takes; 0: the clock's.
    """

    def __init__(  # noqa: PLR0913 - the settings of one thing
        self,
        number: int,
        pool: Any,
        counters: Counters,
        *,
        cpu: int | None,
        burst: int,
        busy: bool,
        breath_ns: int = 0,
    ) -> None:
        self.number = number
        self.cpu = cpu
        self.freelist = new_aligned("struct freelist *")
        lib.freelist_init(self.freelist, pool)
        self.row = counters.make(f"workers/{number}", counter.WORKER, count=16)
        self.gaps = counters.make(
            f"workers/{number}/breath-gap-ns", (), count=lib.HISTOGRAM_BUCKETS
        )
        counters.publish(self.row)
        counters.publish(self.gaps)
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.worker = new_aligned("struct worker *")
        self.worker.freelist = self.freelist
        self.worker.counters = ffi.cast("struct worker_counters *", self.row.pointer)
        self.worker.gaps = self.gaps.pointer
        self.worker.wake_fd = self.wake_fd
        self.worker.burst = burst
        self.worker.busy = busy
        self.worker.breath_ns = breath_ns
        #: Of what passes links to apps of this worker, beside the network.
        self.captures: list[tuple[LinkSpec, Capture]] = []
        self._keep: Any = None
        self._published = 0
        self._rc = 0
        self._thread: Thread | None = None
        self.publish(self.assemble(Network(), {}, {}, [], []))

    # -- life ------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread.

        Raises:
            DeviceError: it could not be started, or not be pinned to its CPU.
        """
        if self._thread:
            return
        self._thread = start_thread(f"worker-{self.number}", self._run)
        while not self.worker.running and self._thread.is_alive():
            time.sleep(20e-6)
        if self._rc < 0:
            raise DeviceError(f"pin worker {self.number} to CPU {self.cpu}", -self._rc)

    def _run(self) -> None:
        cpu = -1 if self.cpu is None else self.cpu
        name = f"worker-{self.number}".encode()
        self._rc = lib.worker_run(self.worker, cpu, name)

    def stop(self, timeout: float = 5.0) -> bool:
        """End the thread; its free packets go back to the pool.

        Returns:
            Whether it ended in time. If not, an app in Python does not return, and
            all that the thread may touch must stay where it is.
        """
        lib.worker_stop(self.worker)
        if self._thread:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()

    @property
    def current_app(self) -> str:
        """The name of the app whose turn it is."""
        return self._name_of(self.worker.current)

    def close(self) -> None:
        """Give up what is left; after `stop`."""
        os.close(self.wake_fd)

    # -- plans -----------------------------------------------------------------

    def assemble(
        self,
        network: Network,
        apps: dict[str, RunningApp],
        links: dict[LinkSpec, RunningLink],
        retired_apps: list[RunningApp],
        retired_links: list[RunningLink],
    ) -> tuple[Any, ...]:
        """Return a plan for this worker, first, and all that it points to."""
        order = breath_order(network, self.number)
        mine = network.apps_of(self.number)
        keep: list[Any] = [apps, links, retired_apps, retired_links]

        def array(kind: str, items: list[Any]) -> Any:
            value = ffi.new(f"{kind}[]", max(len(items), 1))
            for i, item in enumerate(items):
                value[i] = item
            keep.append(value)
            return value

        def steps(names: list[str], operation: str) -> list[dict[str, Any]]:
            return [
                {"run": getattr(apps[n].ops, operation), "app": apps[n].app}
                for n in names
            ]

        def ports(name: str, side: str) -> tuple[Any, list[str]]:
            order = port_order(network, name, side)
            pointers = [links[s].link if s else ffi.NULL for _, s in order]
            return array("struct link *", pointers), [port for port, _ in order]

        bindings = []
        for name in mine:
            running = apps[name]
            inputs, input_names = ports(name, "inputs")
            outputs, output_names = ports(name, "outputs")
            if running.runner:
                running.runner.expect_ports(inputs, input_names, output_names)
            bindings.append(
                {
                    "app": running.app,
                    "ops": running.ops,
                    "state": running.state,
                    "config": running.instance.config,
                    "input": inputs,
                    "output": outputs,
                    "ninput": len(input_names),
                    "noutput": len(output_names),
                }
            )
        pushes = steps(order.pushes, "push")
        for spec, capture in self.captures:
            if spec in links and spec.to_app in order.pushes:
                # Right in front of whoever takes packets off the link.
                taker = apps[spec.to_app].app
                at = [step["app"] for step in pushes].index(taker)
                pushes.insert(at, {"run": lib.capture_ops.push, "app": capture.app})
                bindings.append(
                    {
                        "app": capture.app,
                        "ops": ffi.addressof(lib.capture_ops),
                        "state": capture.state,
                        # No packet waits for it: it has no inputs, as it were.
                        "input": array("struct link *", [links[spec].link]),
                    }
                )
                capture.app.worker = self.worker
                keep.append(capture)
        pullers = [apps[n] for n in order.pulls]
        arming = [apps[n].app for n in mine if apps[n].ops.arm]
        plan = ffi.new("struct plan *")
        plan.pulls = array("struct step", steps(order.pulls, "pull"))
        plan.npulls = len(order.pulls)
        plan.ninternal = sum(a.spec.cls.is_internal for a in pullers)
        plan.pushes, plan.npushes = array("struct step", pushes), len(pushes)
        ticks = [apps[n].app for n in order.ticks]
        plan.ticks, plan.nticks = array("struct app *", ticks), len(ticks)
        plan.arms, plan.narms = array("struct app *", arming), len(arming)
        plan.wakes = array("struct wake", [{"fd": -1}] * (len(arming) + 1))
        plan.can_wait = all(a.ops.arm for a in pullers)
        plan.bindings, plan.nbindings = array("struct binding", bindings), len(bindings)
        plan.retired_apps = array("struct app *", [a.app for a in retired_apps])
        plan.nretired_apps = len(retired_apps)
        plan.retired_links = array("struct link *", [a.link for a in retired_links])
        plan.nretired_links = len(retired_links)
        return plan, keep

    def publish(self, plan: tuple[Any, ...]) -> None:
        """Give the worker a plan; keep what the last one pointed to until `wait`."""
        self._previous, self._keep = self._keep, plan
        self._published += 1
        lib.worker_publish(self.worker, plan[0])

    def wait(self, timeout: float) -> None:
        """Wait until the worker has taken the plan.

        Raises:
            AppError: it did not, because this app did not return; the plan is
                taken back.
        """
        deadline = time.monotonic() + timeout
        pause = 20e-6
        while lib.worker_taken(self.worker) < self._published:
            if time.monotonic() > deadline and lib.worker_retract(self.worker):
                self._keep = self._previous
                self._published -= 1
                raise AppError(
                    self._name_of(self.worker.current),
                    f"held the hand-over up for {timeout:g} s; nothing was changed",
                )
            time.sleep(pause)
            pause = min(pause * 2, 1e-3)
        self._previous = None

    def _name_of(self, app: Any) -> str:
        apps: dict[str, RunningApp] = self._keep[1][0]
        for name, running in apps.items():
            if running.app == app:
                return name
        return f"(worker {self.number})"

    def pause(self) -> None:
        """Make the worker stand still between two breaths.

        Raises:
            DeviceError: it does not come to rest within 5 s.
        """
        lib.worker_pause(self.worker, 1)
        deadline = time.monotonic() + 5
        while not lib.worker_is_paused(self.worker):
            if time.monotonic() > deadline:
                lib.worker_pause(self.worker, 0)
                raise DeviceError(f"pause worker {self.number}", errno.ETIMEDOUT)
            time.sleep(20e-6)

    def resume(self) -> None:
        """Let it go on."""
        lib.worker_pause(self.worker, 0)
        while lib.worker_is_paused(self.worker):
            time.sleep(20e-6)
