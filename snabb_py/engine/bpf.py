"""Packet filter expressions: compiled by libpcap, checked and run by us.

The language is that of pcap-filter(7), as tcpdump has it. libpcap is loaded when the
first expression comes; what it compiles is verified in bpf.c, so that not even a broken
libpcap can reach beyond a frame, and runs as machine code (bpf_jit.c) where that can be
made. Imports errors.
"""

import errno
import functools
from typing import Any, Final

from snabb_py._native import ffi, lib
from snabb_py.errors import ConfigError

#: What the verifier says, by its answers.
_REASONS: Final = {
    lib.BPF_EMPTY: "is empty",
    lib.BPF_TOO_LONG: f"has more than {lib.BPF_MAX_INSTRUCTIONS} instructions",
    lib.BPF_UNKNOWN: "has an unknown instruction",
    lib.BPF_LEAVES: "has a jump to nowhere",
    lib.BPF_DIVISION: "divides by zero",
    lib.BPF_BAD_MEMORY: "uses memory that is not there",
    lib.BPF_SHIFT: "shifts by 32 bits or more",
}

#: Bytes of an expression. libpcap's time grows with more than the square of its terms:
#: some seconds here, hours for ten times as much.
EXPRESSION_MAX: Final = 8192

Instruction = tuple[int, int, int, int]  #: code, jt, jf, k


class Program:
    """A verified filter program; immutable.

    Args:
        instructions: code, jt, jf, k of each.
        jit: make machine code of it, if the machine lets us.

    Raises:
        ConfigError: it might not end, or reach beyond its frame.
    """

    def __init__(self, instructions: list[Instruction], *, jit: bool = True) -> None:
        self.size = len(instructions)
        self.instructions: Any = ffi.new(
            "struct bpf_instruction[]", instructions or [(0, 0, 0, 0)]
        )
        at = ffi.new("uint32_t *")
        answer = lib.bpf_verify(self.instructions, self.size, at)
        if answer:
            raise ConfigError(f"filter program {_REASONS[answer]}, instruction {at[0]}")
        size = ffi.new("size_t *")
        self.code: Any = ffi.NULL
        if jit and (code := lib.bpf_jit(self.instructions, self.size, size)):
            # The machine code goes with the last reference to it.
            free = functools.partial(_free, size=size[0])
            self.code = ffi.gc(code, free)

    def pack(self) -> bytes:
        """Return it for `unpack`: libpcap's struct bpf_insn, little-endian."""
        return bytes(ffi.buffer(self.instructions))

    @classmethod
    def unpack(cls, data: bytes) -> "Program":
        """Return a program that somebody else has packed, verified.

        Raises:
            ConfigError: it is none, might not end, or reach beyond its frame.
        """
        size = ffi.sizeof("struct bpf_instruction")
        n = len(data) // size
        if len(data) % size or not 0 < n <= lib.BPF_MAX_INSTRUCTIONS:
            raise ConfigError(f"filter program: {len(data)} bytes are none")
        program = ffi.from_buffer("struct bpf_instruction[]", data)
        return cls([(i.code, i.jt, i.jf, i.k) for i in program[0:n]])

    def matches(self, frame: bytes) -> bool:
        """Return whether a frame is one of those that the expression describes."""
        data = ffi.from_buffer(frame)
        if self.code:
            return bool(lib.bpf_jit_run(self.code, data, len(frame)))
        return bool(lib.bpf_run(self.instructions, data, len(frame)))


def _free(code: Any, size: int) -> None:
    lib.bpf_jit_free(code, size)


def compile_instructions(expression: str) -> list[Instruction]:
    """Return what libpcap makes of an expression, for Ethernet frames.

    Raises:
        ConfigError: it is no expression, or there is no libpcap.
    """
    try:
        text = expression.encode()
    except UnicodeEncodeError:
        text = b"\0"
    if b"\0" in text:
        raise ConfigError(f"filter {expression!r}: has what is no character")
    if len(text) > EXPRESSION_MAX:
        raise ConfigError(
            f'filter "{expression[:40]}...": {len(text)} bytes, {EXPRESSION_MAX} at '
            "most; say it with ranges and nets"
        )
    program = ffi.new("struct bpf_instruction[]", lib.BPF_MAX_INSTRUCTIONS)
    error = ffi.new("char[]", 512)
    n = lib.libpcap_compile(text, program, len(program), error, len(error))
    if n >= 0:
        return [(i.code, i.jt, i.jf, i.k) for i in program[0:n]]
    reason = ffi.string(error).decode(errors="replace").strip()
    if n == -errno.ENOENT:
        raise ConfigError(
            "filters need the library libpcap: apt-get install libpcap0.8 "
            f"(elsewhere the package is called libpcap); {reason}"
        )
    raise ConfigError(f'filter "{expression}": libpcap says: {reason}')


def compile_expression(expression: str, *, jit: bool = True) -> Program:
    """Return the program of an expression; an empty one matches every frame.

    Raises:
        ConfigError: it is no expression, there is no libpcap, or what that made of it
            would loop (`protochain`).
    """
    instructions = compile_instructions(expression)
    try:
        return Program(instructions, jit=jit)
    except ConfigError as error:
        hint = "; protochain loops" if "protochain" in expression else ""
        raise ConfigError(f'filter "{expression}": {error}{hint}') from None
