"""Says at the end what each mutant cost, which has to fit into what CI can spend, and by what each was found."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, ())]
    notes = {report.nodeid.rpartition("::")[2]: dict(report.user_properties) for report in reports}
    cost = {name: found["cpu"] for name, found in notes.items() if "cpu" in found}
    if cost:
        terminalreporter.section("CPU seconds of the mutants, and what found them")
        for name, used in sorted(cost.items(), key=lambda item: -item[1]):
            terminalreporter.line(f"{used:6.1f} {name}")
            for case, reason in sorted(notes[name].get("failed", {}).items()):
                terminalreporter.line(f"       {case}: {reason}"[:160])
        terminalreporter.line(f"{sum(cost.values()):6.1f} all {len(cost)}")
