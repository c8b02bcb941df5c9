"""Rules about the tree itself."""

import smi_adapter


def test_the_package_states_its_version() -> None:
    assert smi_adapter.__version__
