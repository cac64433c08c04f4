"""`python -m snabb_py`: the same as `snabb-py`."""

from snabb_py.cli import main

main()
