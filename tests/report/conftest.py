"""Every sample report in turn."""

from __future__ import annotations

import pytest
from report_samples import REPORTS

from edgeconv.report import Report


@pytest.fixture(params=list(REPORTS))
def report(request: pytest.FixtureRequest) -> Report:
    """Each of the sample reports in turn."""
    return REPORTS[request.param]()
