"""The options that several commands share, as Typer reads them: their names, values, help texts and headings."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "FILES",
    "EmulatorOption",
    "FormatOption",
    "Given",
    "InputOption",
    "InsecureOption",
    "JsonOption",
    "JsonToo",
    "ModelsOption",
    "OnErrorOption",
    "OutputOption",
    "OverwriteOption",
    "QuietOption",
    "RawOption",
    "RpcOption",
    "SystemOption",
]

MODEL = "Models and devices"
DIALS = "Dials"
ANSWER = "The answer"

ModelsOption = Annotated[
    Path | None,
    typer.Option(
        help="Read this models.toml too; its entries override the packaged ones and your own.", rich_help_panel=MODEL
    ),
]
RpcOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Put the base's layers on these workers (`eftlocal worker`); repeat the option, or separate with commas.",
        rich_help_panel=MODEL,
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Let --rpc name addresses of a network. llama.cpp's RPC has no password and no encryption; its authors "
        "say never to run it on an open network.",
        rich_help_panel=MODEL,
    ),
]

EmulatorOption = Annotated[
    str | None,
    typer.Option("-e", "--emulator", metavar="NAME", help="Emulator to run (default: the one that models.toml names)."),
]
SystemOption = Annotated[str | None, typer.Option("--system", help="System text (system prompt) of the conversation.")]
RawOption = Annotated[bool, typer.Option("--raw", help="Use the prompt as it is, without a chat template.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
JsonToo = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of text; with -i, the output is JSON Lines in any case.")
]

FILES = "A file of prompts"
InputOption = Annotated[
    str | None,
    typer.Option(
        "-i",
        "--input",
        metavar="FILE",
        help="Read many prompts from FILE (.jsonl, .csv or .txt); - is standard input.",
        rich_help_panel=FILES,
    ),
]
OutputOption = Annotated[
    str,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Write the results to FILE as JSON Lines; the same command again continues it; - is standard output.",
        rich_help_panel=FILES,
    ),
]
FormatOption = Annotated[
    Literal["jsonl", "csv", "text"] | None,
    typer.Option("--format", help="Format of the input (default: by its file name).", rich_help_panel=FILES),
]
OnErrorOption = Annotated[
    Literal["stop", "skip"],
    typer.Option(
        "--on-error",
        help="When a line fails: stop the run, or write its error and skip to the next line.",
        rich_help_panel=FILES,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output instead of continuing it.", rich_help_panel=FILES)
]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Show no progress and no summary.", rich_help_panel=FILES)
]


@dataclass(frozen=True)
class Given:
    """The options of every command that runs an emulator, as they were given; None: the option was not given."""

    models: ModelsOption = None
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Large base model to run instead of an emulator: a name, hf:owner/repo/file.gguf or a path.",
            rich_help_panel=MODEL,
        ),
    ] = None
    tuned: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="With --base and --reference: the small fine-tuned model.", rich_help_panel=MODEL
        ),
    ] = None
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --base and --tuned: the small base model that --tuned was made from.",
            rich_help_panel=MODEL,
        ),
    ] = None
    view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=VIEW",
            help="How base, tuned or reference sees a conversation: chat (its chat template), chat:ROLE (that of "
            "another role), transcript or raw; repeat the option for more roles.",
            rich_help_panel=MODEL,
        ),
    ] = None
    ctx: Annotated[
        int | None,
        typer.Option(help="Context size in tokens (default: the emulator's, else up to 4096).", rich_help_panel=MODEL),
    ] = None
    threads: Annotated[
        int | None, typer.Option(help="CPU threads to use in all (default: one for each core).", rich_help_panel=MODEL)
    ] = None
    gpu_layers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|NAME=N",
            help="Layers to offload to devices: N for every model, or by role or model name (default: as many as fit; "
            "0 is the CPU alone).",
            rich_help_panel=MODEL,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            help="Devices to use, separated by commas; `eftlocal doctor` lists them (default: all GPUs; none is the "
            "CPU alone).",
            rich_help_panel=MODEL,
        ),
    ] = None
    main_gpu: Annotated[
        int | None,
        typer.Option(
            help="Number of the device to fill first, from 0 (default: the one with the most room).",
            rich_help_panel=MODEL,
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(
            metavar="none|layer|row|3,1",
            help="How to split a model over devices: layer, row, proportions such as 3,1, or none (default: split only "
            "a model that no single device can hold).",
            rich_help_panel=MODEL,
        ),
    ] = None
    rpc: RpcOption = None
    insecure: InsecureOption = False
    kv_type: Annotated[
        str,
        typer.Option(
            help="Type of the KV cache: f16, q8_0 (half the memory) or f32 (exact, twice the memory).",
            rich_help_panel=MODEL,
        ),
    ] = "f16"
    force: Annotated[
        bool, typer.Option("--force", help="Load models even if they do not fit in memory.", rich_help_panel=MODEL)
    ] = False
    beta: Annotated[
        float | None,
        typer.Option(
            help="Strength of all rewards: 0 is the base alone, 1 is as configured (default: 1).", rich_help_panel=DIALS
        ),
    ] = None
    mix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT",
            help="Strength of one reward; repeat the option, or write A=1,B=0.5 (default: as configured).",
            rich_help_panel=DIALS,
        ),
    ] = None
    reward_top_p: Annotated[
        float | None,
        typer.Option(
            help="Apply rewards only to the tuned model's top-p nucleus; they are 0 elsewhere (default: off).",
            rich_help_panel=DIALS,
        ),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Sampling temperature; 0 is greedy (default: the emulator's, else 0.7).", rich_help_panel=DIALS
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            help="Sample from the k most likely tokens; 0 is off (default: the emulator's, else 0).",
            rich_help_panel=DIALS,
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Sample from the most likely tokens that together reach this probability; 1 is off "
            "(default: the emulator's, else 0.95).",
            rich_help_panel=DIALS,
        ),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(
            help="Drop tokens less likely than this fraction of the most likely one; 0 is off "
            "(default: the emulator's, else 0).",
            rich_help_panel=DIALS,
        ),
    ] = None
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Steer away from what the model says with this system text (classifier-free guidance).",
            rich_help_panel=DIALS,
        ),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(help="With --negative: how strongly; 1 is off (default: 1.5).", rich_help_panel=DIALS),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(help="Seed for sampling, to get the same answer again (default: random).", rich_help_panel=DIALS),
    ] = None
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Tokens to draft at a time for speculative decoding: auto drafts as many as pay off, 0 drafts none "
            "(default: auto).",
            rich_help_panel=DIALS,
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of tokens in an answer (default: the emulator's, else 1024).", rich_help_panel=ANSWER
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        typer.Option(
            help="End the answer before this string; repeat the option for more strings.", rich_help_panel=ANSWER
        ),
    ] = None
    date: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="YYYY-MM-DD",
            help="Date that chat templates see (default: today; an output that is continued keeps its date).",
            rich_help_panel=ANSWER,
        ),
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the log of llama.cpp.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False
