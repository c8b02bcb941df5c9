"""The variants of the chart, each rendered once for a module."""

from typing import Any

import pytest

from tests.chart.rendering import VALUES, render


@pytest.fixture(scope="module", params=VALUES)
def variant(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    return request.param, render(VALUES[request.param])
