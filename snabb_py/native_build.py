"""What cffi compiles into `snabb_py._native`; read by setup.py alone.

One extension holds all C, so that a `struct link *` goes from the engine to a card
and on to the lwAFTR. No layout is written twice: `X_abi.h` is read by the C compiler
and, as it stands, by cffi's cdef.

    X_abi.h         cdef, and C through `X.h` where that exists, else directly
    X_callbacks.h   cdef alone: `extern "Python"`, which is not C
    X.c             compiled

Imports nothing of the package: it runs where the package is not yet built.
"""

import os
from pathlib import Path

from cffi import FFI

# In this order, because later floors use the types of the earlier ones.
FLOORS = ("engine", "apps", "nic", "virtio", "lwaftr")

# Relative to setup.py's directory, which every build runs in: setuptools refuses
# absolute paths in an sdist.
PACKAGE = Path("snabb_py")

COMPILE_ARGS = [
    "-O3",
    "-g",
    "-std=gnu11",
    "-fvisibility=hidden",
    # An undeclared function would return int and truncate pointers, with a warning.
    "-Werror=implicit-function-declaration",
    # Vectors are arguments of inline functions alone: no ABI matters.
    "-Wno-psabi",
]
SANITIZE_ARGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
SANITIZE_COMPILE_ARGS = [
    *SANITIZE_ARGS,
    "-O1",
    "-fno-omit-frame-pointer",
    # What Python's own flags switch on and what hides errors from the sanitizers:
    # assert() gone, signed overflow defined, string functions replaced.
    "-UNDEBUG",
    "-fno-wrapv",
    "-U_FORTIFY_SOURCE",
]


def find(pattern: str) -> list[Path]:
    """Return the files that match: by floor, engine_abi.h first, then by name."""
    return [
        path
        for floor in FLOORS
        for path in sorted(
            (PACKAGE / floor).glob(pattern),
            key=lambda path: (path.name != "engine_abi.h", path.name),
        )
    ]


def header_for_c(abi: Path) -> Path:
    """Return the header through which C reads an ABI header.

    ABI headers have no include guards, so each is reached in one way only.
    """
    header = abi.with_name(abi.name.replace("_abi.h", ".h"))
    return header if header.exists() else abi


def make_builder() -> FFI:
    """Return the builder of the extension."""
    builder = FFI()
    abi_headers = find("*_abi.h")
    for path in abi_headers + find("*_callbacks.h"):
        try:
            builder.cdef(path.read_text())
        except Exception as error:
            # cffi knows the line, but calls every file "<cdef source string>".
            error.add_note(f"in {path}")
            raise
    compile_args, link_args = COMPILE_ARGS, []
    if os.environ.get("SNABB_SANITIZE") == "1":
        compile_args, link_args = [*COMPILE_ARGS, *SANITIZE_COMPILE_ARGS], SANITIZE_ARGS
    builder.set_source(
        "snabb_py._native",
        "".join(f'#include "{header_for_c(path)}"\n' for path in abi_headers),
        sources=[str(path) for path in find("*.c")],
        depends=[str(path) for path in find("*.h")],
        # Root-relative includes: a header called `exports.h` was once replaced by
        # CPython's own of that name.
        include_dirs=["."],
        libraries=["pthread"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    return builder


ffibuilder = make_builder()
