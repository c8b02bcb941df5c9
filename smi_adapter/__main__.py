"""`python -m smi_adapter`: the command line where the script is not on PATH."""

from smi_adapter.cli import entry

entry()
