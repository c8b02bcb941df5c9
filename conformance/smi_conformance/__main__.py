"""`python -m smi_conformance` is `smi-conformance`."""

from smi_conformance.cli import entry

if __name__ == "__main__":
    entry()
