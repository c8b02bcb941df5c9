import pytest

from tests.oracle.budget import add_option


def pytest_addoption(parser: pytest.Parser) -> None:
    add_option(parser)
