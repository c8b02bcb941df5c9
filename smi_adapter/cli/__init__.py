"""The command line: click commands, a module for each group, without logic of their own.

Commands are imported when they are called, so that `smi-adapter --help` answers at once. Exit codes: 0 fine,
1 findings, failed checks or differences, 2 usage, 3 unreachable, 4 timed out, 130 on ^C. Data goes to stdout,
everything else to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from smi_adapter import __version__

_COMMANDS = {
    "analyze": "smi_adapter.cli.offline:analyze",
    "backends": "smi_adapter.cli.offline:backends",
    "bootstrap": "smi_adapter.cli.bootstrap:bootstrap",
    "bug-report": "smi_adapter.cli.bugreport:bug_report",
    "check": "smi_adapter.cli.check:check",
    "completion": "smi_adapter.cli.completion:completion",
    "crds": "smi_adapter.cli.crds:crds",
    "demo": "smi_adapter.cli.demo:demo",
    "describe": "smi_adapter.cli.show:describe",
    "diff": "smi_adapter.cli.diff:diff",
    "explain": "smi_adapter.cli.offline:explain",
    "get": "smi_adapter.cli.show:get",
    "run": "smi_adapter.cli.run:run",
    "status": "smi_adapter.cli.status:status",
    "translate": "smi_adapter.cli.offline:translate",
    "uninstall": "smi_adapter.cli.uninstall:uninstall",
}
_ABOUT = {
    "analyze": "Lint SMI and Kubernetes objects, in files or in a cluster.",
    "backends": "List the installed backends and what each can do.",
    "bootstrap": "Print what the sidecars of a namespace start with.",
    "bug-report": "Collect what a bug report needs, without secrets.",
    "check": "Check the installation and the cluster.",
    "completion": "Print the completion script of a shell.",
    "crds": "Compare the cluster's SMI CRDs with ours, and bring them up to date.",
    "demo": "Run the bookstore on real Envoys, without a cluster.",
    "describe": "Show one SMI object: conditions, findings, Events.",
    "diff": "Show what would change in the mesh if files were applied.",
    "explain": "Say what happens to one request, and why.",
    "get": "List SMI objects: splits, targets, routes, bindings.",
    "run": "Be the controller of a cluster, or serve a directory with real Envoys.",
    "status": "Show what a running `smi-adapter run` does: proxies, versions, findings.",
    "translate": "Print any stage of the translation, offline.",
    "uninstall": "Take away what the controller has put into the cluster.",
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        del ctx
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return it."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any of them."""
        found = [CompletionItem(name, help=_ABOUT[name]) for name in sorted(_COMMANDS) if name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_ABOUT.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Try `smi-adapter demo`, then `smi-adapter explain -f examples/bookstore --help`.",
)
@click.version_option(__version__, "--version", prog_name="smi-adapter")
def main() -> None:
    """Make the Service Mesh Interface (SMI) work: TrafficSplit, TrafficTarget and friends on real proxies."""


def execute(arguments: Sequence[str] | None = None, name: str = "smi-adapter") -> int:
    """Run a command line (None: the process's own) and return its exit code; ^C is 130, as shells expect."""
    try:
        code = main.main(None if arguments is None else [*arguments], prog_name=name, standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return code if isinstance(code, int) else 0


def entry() -> None:
    """Be a program: `smi-adapter`, or kubectl's plugin if that is how we were called."""
    as_plugin = Path(sys.argv[0]).name.startswith("kubectl-traffic")
    sys.exit(execute(name="kubectl traffic" if as_plugin else "smi-adapter"))
