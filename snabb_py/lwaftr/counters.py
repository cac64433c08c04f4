"""The lwAFTR's counters by name; their meaning is in counters_abi.h."""

from typing import Final

from snabb_py._native import ffi

#: All of them, in the order of `enum lwaftr_counter`.
NAMES: Final[tuple[str, ...]] = tuple(
    member.removeprefix("LWAFTR_").lower().replace("_", "-")
    for value, member in sorted(ffi.typeof("enum lwaftr_counter").elements.items())
    if member != "LWAFTR_NCOUNTERS"
)
