"""What `snabb-py doctor` looks at: CPUs, of those that workers are to have, or all.

Each check takes a `Case` and returns one `Finding`, or raises `UntoldError`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from snabb_py.cli.doctor_finding import (
    Advice,
    Case,
    Finding,
    Step,
    Write,
    ok,
    problem,
    warning,
)
from snabb_py.cli.interfaces import RING_SIZE
from snabb_py.engine.host import (
    CPU,
    Host,
    IdleState,
    Interrupt,
    UntoldError,
    format_cpus,
)

#: Of the smallest frames at 10 Gb/s.
FRAME_NS = 67.2
RING_US = RING_SIZE * FRAME_NS / 1000
#: Waking up is the interrupt, the scheduler and what the CPU itself takes: half the
#: ring is for the last.
LATENCY_US = int(RING_US / 2)
#: What a CPU is allowed by --fix.
LATENCY_LIMIT_US = 10
NAMES_SHOWN = 4


def _looked_at(case: Case) -> list[int]:
    """Return the CPUs chosen, or all."""
    online = case.host.cpu_list(f"{CPU}/online")
    return [cpu for cpu in case.cpus if cpu in online] if case.cpus else online


def _by_value(cpus: Iterable[int], read: Callable[[int], str]) -> dict[str, list[int]]:
    """Return the CPUs of each value that something has."""
    found = defaultdict(list)
    for cpu in cpus:
        found[read(cpu)].append(cpu)
    return dict(found)


def _each(values: dict[str, list[int]]) -> str:
    return "; ".join(
        f"{value} (CPU {format_cpus(cpus)})" for value, cpus in values.items()
    )


# ---- of all


def governor(case: Case) -> Finding:
    """Whether CPUs run at full speed at once."""
    if not case.host.glob(f"{CPU}/cpu*/cpufreq/scaling_governor"):
        raise UntoldError(
            f"no /{CPU}/cpu*/cpufreq: in a virtual machine the host decides"
        )
    values = _by_value(_looked_at(case), case.host.governor)
    slow = [
        cpu for name, cpus in values.items() if name != "performance" for cpu in cpus
    ]
    if not slow:
        return ok(_each(values))
    step = Write("performance", CPU + "/cpu{}/cpufreq/scaling_governor", tuple(slow))
    return warning(_each(values), "performance", step)


def turbo(case: Case) -> Finding:
    """Whether the frequency depends on what other cores do."""
    for name, off in (("intel_pstate/no_turbo", 1), ("cpufreq/boost", 0)):
        if case.host.has(f"{CPU}/{name}"):
            if case.host.number(f"{CPU}/{name}") == off:
                return ok("off")
            command = Write(str(off), f"{CPU}/{name}")
            return ok(f"on: as fast as it gets; for rates that do not vary: {command}")
    raise UntoldError(f"no /{CPU}/intel_pstate or cpufreq/boost")


def idle_states(case: Case) -> Finding:
    """Whether a worker that sleeps wakes up before its card's ring is full."""
    deepest = {cpu: _deepest(case.host, cpu) for cpu in _looked_at(case)}
    now = _each(_by_value(deepest, lambda cpu: str(deepest[cpu])))
    deep = [cpu for cpu, state in deepest.items() if state.latency_us > LATENCY_US]
    if not deep:
        return ok(now)
    return warning(
        now,
        f"{LATENCY_US} us at most: a ring of {RING_SIZE} is full in {RING_US:.0f} us "
        "at line rate; or run with --busy",
        Write(
            str(LATENCY_LIMIT_US),
            CPU + "/cpu{}/power/pm_qos_resume_latency_us",
            tuple(deep),
        ),
    )


def _deepest(host: Host, cpu: int) -> IdleState:
    """Return the deepest state that a CPU may enter."""
    states = host.idle_states(cpu)
    return max(states, key=attrgetter("latency_us"), default=IdleState("none", 0))


# ---- of those chosen


def usable(case: Case) -> Finding:
    """Whether we may run there."""
    online, ours = case.host.cpu_list(f"{CPU}/online"), case.host.cpuset()
    off = [cpu for cpu in case.cpus if cpu not in online]
    if off:
        step = Write("1", CPU + "/cpu{}/online", tuple(off))
        return problem(f"CPU {format_cpus(off)} is offline", "online", step)
    others = [cpu for cpu in case.cpus if cpu not in ours]
    if others:
        return problem(
            f"our cgroup has the CPUs {format_cpus(ours)}",
            f"CPU {format_cpus(others)} too",
            Advice("AllowedCPUs= of the unit, cpuset.cpus of the cgroup"),
        )
    return ok(f"online, and ours: {format_cpus(ours)}")


def isolated(case: Case) -> Finding:
    """Whether the scheduler leaves the CPUs to what is pinned there."""
    shared = sorted(set(case.cpus) - case.host.isolated())
    if not shared:
        return ok("all are isolated")
    cpus = format_cpus(case.cpus)
    return warning(
        f"CPU {format_cpus(shared)} gets whatever work there is",
        "isolated: what runs there delays packets",
        Advice(f"kernel argument isolcpus=managed_irq,domain,{cpus}"),
    )


def ticks(case: Case) -> Finding:
    """Whether the scheduler's tick leaves the CPUs alone."""
    ticking = sorted(set(case.cpus) - case.host.tickless())
    if not ticking:
        return ok("none while one thread runs there")
    cpus = format_cpus(case.cpus)
    return warning(
        f"CPU {format_cpus(ticking)} is interrupted at each tick",
        "none: some microseconds each",
        Advice(f"kernel arguments nohz_full={cpus} rcu_nocbs={cpus}"),
    )


def cores(case: Case) -> Finding:
    """Whether each worker has a core."""
    isolated = case.host.isolated()
    online = set(case.host.cpu_list(f"{CPU}/online"))
    busy = []
    for cpu in case.cpus:
        for other in case.host.siblings(cpu):
            if other in case.cpus and cpu < other:
                busy.append((cpu, other, "both are chosen"))
            elif other not in case.cpus and other in online - isolated:
                busy.append((cpu, other, "which gets other work"))
    if not busy:
        return ok("one to each, and nothing else on it")
    rivals = {other for _, other, _ in busy} - set(case.cpus)
    step = Write("0", CPU + "/cpu{}/online", tuple(sorted(rivals)))
    return warning(
        "; ".join(f"CPU {a} has its core with CPU {b}, {why}" for a, b, why in busy),
        "a core to each: two threads of one have half of it",
        Advice(str(step) if rivals else "choose CPUs of different cores"),
    )


def interrupts(case: Case) -> Finding:
    """Whether the CPUs are left alone by devices of the kernel."""
    there = [irq for irq in case.host.interrupts() if set(irq.cpus) & set(case.cpus)]
    managed = [irq for irq in there if case.host.is_managed(irq.number)]
    found = [irq for irq in there if irq not in managed]
    kept = (
        f"{_names(managed)}: the kernel's to move, at a boot with isolcpus=managed_irq"
    )
    balanced = set(case.cpus) - case.host.isolated() - case.host.tickless()
    # It leaves isolated CPUs alone: irqbalance(1), IRQBALANCE_BANNED_CPULIST.
    has_balancer = bool(balanced) and case.host.is_running("irqbalance")
    steps: list[Step] = []
    if has_balancer:
        cpus = format_cpus(balanced)
        steps.append(
            Advice(f"IRQBALANCE_BANNED_CPULIST={cpus} in /etc/default/irqbalance")
        )
    if not found:
        if has_balancer:
            now = "none now, but irqbalance may bring some"
            return warning(now, "none", *steps)
        return ok(kept if managed else "none of a device")
    numbers = tuple(irq.number for irq in found)
    rest = _others(case.host, case.cpus)
    move: Step = Advice("choose fewer CPUs")
    if rest:
        move = Write(format_cpus(rest), "proc/irq/{}/smp_affinity_list", numbers)
    return warning(
        _names(found)
        + (", and irqbalance runs" if has_balancer else "")
        + (f"; {kept}" if managed else ""),
        "none of a device: each takes some microseconds",
        *steps,
        move,
    )


def _names(found: Sequence[Interrupt]) -> str:
    """Return some interrupts by number and name."""
    shown = ", ".join(f"{irq.number} ({irq.name})" for irq in found[:NAMES_SHOWN])
    more = len(found) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _others(host: Host, cpus: Iterable[int]) -> list[int]:
    """Return the CPUs that are left for the kernel."""
    rest = set(host.cpu_list(f"{CPU}/online")) - set(cpus)
    return sorted(rest - host.isolated() or rest)
