"""Benchmarks: what the design promises about speed, size and lost requests, each beside a control in the same run.

`python -m benchmarks` measures, `docs/performance.md` explains. Product and control take turns on one machine, so a
figure here is a ratio; absolute times of a shared machine say little. A bar is met only if its control, which lacks
what the bar is about, visibly misses it: a measurement that cannot fail proves nothing.
"""
