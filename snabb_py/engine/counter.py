"""The engine's own counters by name, as they lie in shared memory.

Order and number are those of the structs in engine_abi.h; a test holds both together.
Apps name theirs in their class. Imports nothing.
"""

LINK = ("txpackets", "txbytes", "rxpackets", "rxbytes", "txdrop")

WORKER = (
    "breaths",
    "idle-breaths",
    "sleeps",
    "waits",
    "sleep-ns",
    "handovers",
    "drop-reconfigure",
    "longest-gap-ns",
    "free-small-packets",
    "free-large-packets",
    "busy-ns",
)

#: What every app that is written in Python counts beside its own.
PYTHON_APP = ("drop-app", "drop-app-failed", "app-failures", "app-restarts")


def is_drop(name: str) -> bool:
    """Return whether a counter counts packets that were lost, for a reason of its own.

    Not so what it has in bytes, nor the sum of all drops of a side.
    """
    is_other = name.endswith("-bytes") or name.startswith("drop-all-")
    return name == "txdrop" or (name.startswith("drop-") and not is_other)
