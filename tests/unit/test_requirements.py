"""The rule of tests/requirements.py, shown by pytest runs within pytest."""

from collections.abc import Callable
from functools import partial

import pytest

from tests import requirements

pytest_plugins = ["pytester"]

Run = Callable[..., pytest.RunResult]

SKIPS_AND_RUNS = """
    import pytest
    from tests.requirements import need

    @pytest.mark.need("air")
    def test_runs(): pass

    @pytest.mark.need("air", "moon")
    def test_marker(): assert False

    def test_call():
        need("moon")
        assert False
"""
OTHER_SKIPS = """
    import pytest

    def test_by_call(): pytest.skip("mood")

    @pytest.mark.skip(reason="mood")
    def test_by_marker(): pass

    @pytest.mark.xfail(reason="known")
    def test_xfail(): assert False
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a test file under our conftest, on a machine with air and without moon."""
    for name, is_met in {"air": True, "moon": False}.items():
        fake = requirements.Requirement(partial(bool, is_met), f"the {name}")
        monkeypatch.setitem(requirements.REQUIREMENTS, name, fake)
    # Loading hypothesis anew takes longer than all the rest of such a run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest("from tests.conftest import *")

    def run(source: str, require: str = "") -> pytest.RunResult:
        monkeypatch.setenv("SNABB_REQUIRE", require)
        pytester.makepyfile(source)
        return pytester.runpytest_inprocess("-rs")

    return run


def test_what_is_missing_skips_and_says_so(run: Run) -> None:
    result = run(SKIPS_AND_RUNS)
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED * *.py:*: needs the moon"])


def test_what_is_required_and_missing_fails(run: Run) -> None:
    result = run(SKIPS_AND_RUNS, require="air, moon")
    # one error in setup (the marker), one failure in the test (the call)
    result.assert_outcomes(passed=1, errors=1, failed=1)
    result.stdout.fnmatch_lines(["needs the moon, and SNABB_REQUIRE says it is here"])


def test_what_is_not_required_still_skips(run: Run) -> None:
    run(SKIPS_AND_RUNS, require="air").assert_outcomes(passed=1, skipped=2)


def test_other_skips_are_free_where_nothing_is_required(run: Run) -> None:
    run(OTHER_SKIPS).assert_outcomes(skipped=2, xfailed=1)


def test_other_skips_fail_where_something_is_required(run: Run) -> None:
    result = run(OTHER_SKIPS, require="air")
    result.assert_outcomes(failed=1, errors=1, xfailed=1)
    result.stdout.fnmatch_lines(["*skipped without a need: *mood*"])


def test_skipped_module_fails_where_something_is_required(run: Run) -> None:
    source = "import pytest; pytest.importorskip('no_such_module')"
    run(source).assert_outcomes(skipped=1)
    run(source, require="air").assert_outcomes(errors=1)


@pytest.mark.parametrize("require", ["mars", "air,mars"])
def test_unknown_name_in_environment_is_an_error(run: Run, require: str) -> None:
    result = run("def test_runs(): pass", require)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*SNABB_REQUIRE: unknown requirement mars*"])


def test_unknown_name_in_marker_is_an_error(run: Run) -> None:
    result = run("import pytest\n@pytest.mark.need('mars')\ndef test_runs(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_runs: unknown requirement mars*"])


@pytest.mark.parametrize("name", requirements.REQUIREMENTS)
def test_every_probe_answers(name: str) -> None:
    assert requirements.REQUIREMENTS[name].is_met() in {True, False}
