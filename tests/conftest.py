"""What holds for every test."""

from hypothesis import HealthCheck, settings

# No timed assertions: a loaded machine is no failure. A failure prints what reproduces it. `--hypothesis-profile`
# on the command line takes precedence.
settings.register_profile("project", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")
