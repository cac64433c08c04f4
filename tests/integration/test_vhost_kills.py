"""Sudden deaths: of snabb-py under its guests, and of guests beside others.

`scripts/verify/vhost-kills` does the same a hundred times.
"""

from pathlib import Path

import pytest

from tests.kill_back_end import kill_back_end
from tests.kill_front_ends import MESSAGES, kill_front_ends

SEED = 1


@pytest.mark.need("qemu")
def test_linux_goes_on_when_snabb_py_is_killed(tmp_path: Path) -> None:
    outages = kill_back_end(tmp_path, 3, SEED, testpmd=False)
    assert not outages.problems, "\n".join(outages.describe())


@pytest.mark.need("dpdk")
def test_dpdk_goes_on_when_snabb_py_is_killed(tmp_path: Path) -> None:
    outages = kill_back_end(tmp_path, 3, SEED, linux=False)
    assert not outages.problems, "\n".join(outages.describe())


@pytest.mark.need("qemu", "dpdk")
def test_nobody_notices_guests_that_are_killed(tmp_path: Path) -> None:
    deaths = kill_front_ends(tmp_path, SEED, testpmds=4, qemus=2, warm_up=1)
    assert not deaths.problems, "\n".join(deaths.describe())


def test_nobody_notices_front_ends_that_die_in_their_hello(tmp_path: Path) -> None:
    deaths = kill_front_ends(tmp_path, SEED, ours=2 * MESSAGES)
    assert not deaths.problems, "\n".join(deaths.describe())
