"""Shows one random world and what the oracle decides in it: `python -m tests.oracle SEED`."""

import sys

import yaml

from tests.oracle.evaluator import decide
from tests.oracle.worlds import world


def main(seed: int) -> None:
    """Print the manifests as they would be applied, then each request with its decision."""
    shown = world(seed)
    sys.stdout.write(yaml.safe_dump_all(shown.objects, sort_keys=False))
    sys.stdout.write(f"\n# {shown}\n")
    for request in shown.requests:
        shares = decide(shown.objects, request, shown.options).shares
        told = ", ".join(f"{outcome}: {share}" for outcome, share in shares.items())
        sys.stdout.write(f"# {request}\n#   {told}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
