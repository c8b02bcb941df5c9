"""What holds for every test."""

import pytest
from hypothesis import HealthCheck, settings

from tests.oracle.budget import add_option

# No timed assertions: a loaded machine is no failure. A failure prints what reproduces it. `--hypothesis-profile`
# on the command line takes precedence.
settings.register_profile("project", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    add_option(parser)
    parser.addoption("--update-golden", action="store_true", help="write the files of tests/golden anew")
