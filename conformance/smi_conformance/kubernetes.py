"""Placeholder until the harness is written."""

from smi_conformance.local import LocalHarness


class KubernetesHarness(LocalHarness):
    """Not there yet."""
