"""`longshore completion`: the script that completes commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from .verbs import cli

_WHERE = {
    "bash": "echo 'eval \"$(longshore completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(longshore completion zsh)\"' >> ~/.zshrc",
    "fish": "longshore completion fish > ~/.config/fish/completions/longshore.fish",
}


@click.command("completion", epilog=f"Example: {_WHERE['bash']}")
@click.argument("shell", type=click.Choice(list(_WHERE)))
def command(shell: str) -> None:
    """Print a script that completes commands, options and the numbers of recent batches in SHELL.

    Numbers come from what was seen last on this machine; the service is not asked.
    """
    kind = get_completion_class(shell)
    assert kind is not None, "Click knows these shells"
    complete = kind(cli, {}, "longshore", "_LONGSHORE_COMPLETE")
    # Not the shell's own `source`, which would start that shell to see how old it is.
    click.echo(ShellComplete.source(complete), nl=False)
