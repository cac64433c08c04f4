"""libpcap itself, by ctypes: the judge of our filters."""

import ctypes
from collections.abc import Iterable, Sequence

Instruction = tuple[int, int, int, int]


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_uint),
        ("instructions", ctypes.POINTER(_Instruction)),
    )


class _Header(ctypes.Structure):
    _fields_ = (
        ("seconds", ctypes.c_long),
        ("microseconds", ctypes.c_long),
        ("caplen", ctypes.c_uint32),
        ("len", ctypes.c_uint32),
    )


def compile_instructions(
    expression: str, *, optimize: bool = True
) -> list[Instruction]:
    """Return libpcap's program; ValueError when it has none."""
    lib = ctypes.CDLL("libpcap.so.0.8")
    lib.pcap_open_dead.restype = ctypes.c_void_p
    lib.pcap_geterr.restype = ctypes.c_char_p
    handle = ctypes.c_void_p(lib.pcap_open_dead(1, 262144))
    program = _Program()
    try:
        if lib.pcap_compile(
            handle,
            ctypes.byref(program),
            expression.encode(),
            int(optimize),
            ctypes.c_uint32(0xFFFFFFFF),
        ):
            raise ValueError(lib.pcap_geterr(handle).decode())
        result = [
            (i.code, i.jt, i.jf, i.k) for i in program.instructions[: program.length]
        ]
        lib.pcap_freecode(ctypes.byref(program))
        return result
    finally:
        lib.pcap_close(handle)


def offline_filter(
    instructions: Sequence[Instruction], frames: Iterable[bytes]
) -> list[bool]:
    """Return which frames pcap_offline_filter() lets through."""
    lib = ctypes.CDLL("libpcap.so.0.8")
    array = (_Instruction * len(instructions))(
        *(_Instruction(*i) for i in instructions)
    )
    program = _Program(len(instructions), array)
    return [
        lib.pcap_offline_filter(
            ctypes.byref(program),
            ctypes.byref(_Header(0, 0, len(frame), len(frame))),
            frame,
        )
        != 0
        for frame in frames
    ]
