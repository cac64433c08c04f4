"""Lines that a client can cause: the first are shown, a flood is summed up."""

import pytest

from snabb_py.nic.limited_log import BURST, WINDOW, LimitedLog


class Rig:
    """A log at a time of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.lines: list[str] = []
        self.log = LimitedLog(self.lines.append, clock=lambda: self.now)

    def say(self, n: int, text: str = "came") -> None:
        for i in range(n):
            self.log.say(text, f" ({i})")

    def taken(self) -> list[str]:
        lines, self.lines[:] = list(self.lines), []
        return lines


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_few_lines_are_shown(rig: Rig) -> None:
    rig.say(BURST)
    assert rig.taken() == [f"came ({i})" for i in range(BURST)]
    assert not rig.log.is_holding


def test_each_kind_has_its_own_count(rig: Rig) -> None:
    rig.say(BURST + 5)
    rig.say(1, "went")
    assert rig.taken()[-1] == "went (0)"


def test_too_many_are_one_line_a_window(rig: Rig) -> None:
    rig.say(BURST + 5)
    rig.taken()
    rig.log.look()
    assert rig.taken() == []
    for n in (5, 1000, 7):
        rig.now += WINDOW
        rig.log.look()
        assert rig.taken() == [f"came: ... {n} more"]
        assert not rig.log.is_holding
        rig.say({5: 1000, 1000: 7, 7: 0}[n])


def test_after_a_window_without_any_they_are_shown_again(rig: Rig) -> None:
    rig.say(BURST + 5)
    for _ in range(2):
        rig.now += WINDOW
        rig.log.look()
    rig.taken()
    rig.say(1)
    assert rig.taken() == ["came (0)"]


def test_the_rest_is_said_at_the_end(rig: Rig) -> None:
    rig.say(BURST + 5)
    rig.say(2, "went")
    rig.taken()
    rig.log.flush()
    assert rig.taken() == ["came: ... 5 more"]
    rig.log.flush()
    assert rig.taken() == []
