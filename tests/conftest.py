"""What all tests share: skips are for `tests.requirements` to decide."""

from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

from tests.requirements import Unmet, check_names, need, required_names


def forbid_other_skips(
    report: pytest.TestReport | pytest.CollectReport, call: pytest.CallInfo[Any]
) -> None:
    """Fail a test or module that is skipped, where all is there, for another reason."""
    is_xfail = hasattr(report, "wasxfail")
    if required_names() and report.skipped and not is_xfail:
        excinfo = call.excinfo
        if excinfo is None or not isinstance(excinfo.value, Unmet):
            report.outcome = "failed"
            report.longrepr = f"skipped without a need: {report.longrepr}"


def pytest_configure() -> None:
    # How long an example takes is the machine's matter, and what else runs on it.
    hypothesis.settings.register_profile("snabb-py", deadline=None)
    hypothesis.settings.load_profile("snabb-py")
    check_names(required_names(), "SNABB_REQUIRE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("need"):
            check_names(set(marker.args), item.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("need"):
        need(*marker.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    forbid_other_skips(report, call)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[
    None, pytest.CollectReport, pytest.CollectReport
]:
    report = yield
    forbid_other_skips(report, report.call)
    return report
