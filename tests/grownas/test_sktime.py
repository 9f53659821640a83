"""The estimator for sktime passes all of sktime's own checks.

Slow, and only where sktime is installed (it needs pandas below 3.1).
"""

from __future__ import annotations

import pytest

pytest.importorskip("sktime", reason="needs the extra sktime")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # sktime warns about its own coming changes

from sktime.utils.estimator_checks import check_estimator, parametrize_with_checks  # noqa: E402

from grownas.sktime import GrownForecaster  # noqa: E402


@parametrize_with_checks(GrownForecaster)
def test_all_checks_pass(obj, test_name):
    results = check_estimator(obj, tests_to_run=test_name, raise_exceptions=True, verbose=False)
    assert set(results.values()) == {"PASSED"}
