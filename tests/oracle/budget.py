"""How many decisions the oracle is asked for in one run: `--oracle-decisions N`.

The option is registered here, for whichever conftest is loaded first: a conftest beside a test is read before the
command line only if that directory was named on it.
"""

import pytest

DEFAULT_DECISIONS = 2000
DECISIONS_A_WORLD = 11  # what `worlds()` draws on average, and a little less


def add_option(parser: pytest.Parser) -> None:
    """Register the option, once."""
    try:
        parser.addoption(
            "--oracle-decisions",
            type=int,
            default=DEFAULT_DECISIONS,
            metavar="N",
            help="compare at least about N decisions of the semantic oracle (default: %(default)s)",
        )
    except ValueError:  # another conftest was first
        return


def worlds_for(config: pytest.Config) -> int:
    """Turn the option into a number of worlds; without the option, as when no conftest registered it, the default."""
    decisions = config.getoption("--oracle-decisions", default=DEFAULT_DECISIONS)
    return max(1, -(-int(decisions) // DECISIONS_A_WORLD))
