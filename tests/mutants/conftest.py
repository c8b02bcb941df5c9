"""Says at the end what each mutant cost: the run has to fit into what CI can spend on it."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, ())]
    cost = {report.nodeid: value for report in reports for name, value in report.user_properties if name == "cpu"}
    if cost:
        terminalreporter.section("CPU seconds of the mutants")
        for name, used in sorted(cost.items(), key=lambda item: -item[1]):
            terminalreporter.line(f"{used:6.1f} {name.rpartition('::')[2]}")
        terminalreporter.line(f"{sum(cost.values()):6.1f} all {len(cost)}")
