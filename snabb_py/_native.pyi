# cffi describes no types. The C side is held by _Static_assert and by tests.
from typing import Any

ffi: Any
lib: Any
