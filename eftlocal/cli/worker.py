"""The command that serves this machine's memory to a base on another machine."""

from typing import Annotated

import typer

from eftlocal.cli.app import app

__all__ = ["worker"]


@app.command()
def worker(
    host: Annotated[str, typer.Option(help="IPv4 address to listen on; others than 127.0.0.1 need --insecure.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 50052,
    threads: Annotated[int | None, typer.Option(help="CPU threads to use (default: one for each core).")] = None,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep large tensors on disk, so that a model is sent only once.")
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Allow an address of a network. llama.cpp's RPC has no password and no encryption; its authors say "
            "never to run it on an open network.",
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log of llama.cpp.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
) -> None:
    """Serve this machine's memory: a base on another machine puts layers here (llama.cpp's RPC)."""
    from eftlocal.apps.worker import worker

    raise typer.Exit(worker(host, port, threads=threads, cache=cache, insecure=insecure, verbose=verbose))
