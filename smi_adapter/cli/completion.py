"""`completion`, and the helper that kubectl asks when somebody presses tab after `kubectl traffic`."""

from __future__ import annotations

import sys

import click
from click.shell_completion import ShellComplete, get_completion_class

_NO_FILES = 4
"""kubectl's directive for: these are all, do not offer files."""
_FILES = 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print the script that completes commands and options in a shell.

    \b
    bash:  source <(smi-adapter completion bash)
    zsh:   source <(smi-adapter completion zsh)
    fish:  smi-adapter completion fish > ~/.config/fish/completions/smi-adapter.fish

    `kubectl traffic` is completed by kubectl itself, once kubectl_complete-traffic is on PATH.
    """  # noqa: D301 - click takes the character itself for a paragraph that is not to be wrapped
    from smi_adapter.cli import main  # noqa: PLC0415 - it imports us

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(made(main, {}, "smi-adapter", "_SMI_ADAPTER_COMPLETE").source())
    return 0


def kubectl_complete() -> None:
    """Answer kubectl: the words so far are our arguments, the last one is the one to complete."""
    from smi_adapter.cli import main  # noqa: PLC0415

    *before, last = sys.argv[1:] or [""]
    found = ShellComplete(main, {}, "kubectl traffic", "").get_completions(before, last)
    files = any(item.type in {"file", "dir"} for item in found)
    for item in found:
        if item.type == "plain":
            sys.stdout.write(f"{item.value}\t{item.help}\n" if item.help else f"{item.value}\n")
    sys.stdout.write(f":{_FILES if files else _NO_FILES}\n")
