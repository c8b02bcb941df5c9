"""What holds for every test."""

import signal
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests import tools
from tests.oracle.budget import add_option

# No timed assertions: a loaded machine is no failure. A failure prints what reproduces it. `--hypothesis-profile`
# on the command line takes precedence.
settings.register_profile("project", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


# A shell's background job starts with SIGINT ignored, and so would every program that a test means to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_option(parser)
    parser.addoption("--update-golden", action="store_true", help="write the files of tests/golden anew")


API_SERVER_SUITE: Final = Path(__file__).parent / "apiserver"


def left_out(config: pytest.Config) -> bool:
    """Tell whether the API-server suite is left out: its tools are not built, and nobody asked for it by name."""
    asked = (config.invocation_params.dir / argument.partition("::")[0] for argument in config.args)
    return not any(path.is_relative_to(API_SERVER_SUITE) for path in asked) and not tools.is_there("kubernetes")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path == API_SERVER_SUITE and left_out(config) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    whole = any(API_SERVER_SUITE.is_relative_to(config.invocation_params.dir / argument) for argument in config.args)
    ignored = [Path(path).resolve() for path in config.getoption("ignore") or ()]
    if whole and API_SERVER_SUITE not in ignored and left_out(config):
        terminalreporter.write_line("left out: tests/apiserver, as its tools are not built (make test-apiserver does)")
