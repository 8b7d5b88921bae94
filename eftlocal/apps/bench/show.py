"""Prints a bench report as tables, and the main results as sentences at the end."""

from rich.table import Column, Table

from eftlocal.apps.bench.report import Report, counted
from eftlocal.apps.common import console
from eftlocal.text import printable

__all__ = ["show"]


def show(report: Report) -> None:
    """Print the report on standard output."""
    out = console()
    out.print(printable(f"{report.emulator}: {counted(report.threads, 'thread')} of {report.machine}"))
    repetitions = counted(report.repetitions, "repetition")
    out.print(f"{report.tokens} tokens a prompt, medians of {repetitions} and of the ratios within each\n")
    members = _table("member alone", "decode tokens/s", "prefill tokens/s")
    for role, rates in report.members.items():
        members.add_row(printable(role), f"{rates['decode']:.1f}", f"{rates['prefill']:.0f}")
    out.print(members, "")
    out.print(_ways(report), "")
    if report.sweeps.threads:
        threads = _table("threads", "base alone ms/token", "concurrent ms/token")
        for with_so_many in report.sweeps.threads:
            threads.add_row(
                str(with_so_many.threads), f"{with_so_many.base_alone:.2f}", f"{with_so_many.concurrent:.2f}"
            )
        out.print(threads, "")
    if report.sweeps.ctx:
        contexts = _table("context", "base alone ms/token", "concurrent ms/token", "caches MB")
        for at in report.sweeps.ctx:
            contexts.add_row(str(at.ctx), f"{at.base_alone:.2f}", f"{at.concurrent:.2f}", f"{at.kv_mb:.1f}")
        out.print(contexts, "")
    if report.block_ms:
        blocks = ", ".join(f"{n}: {ms:.1f}" for n, ms in report.block_ms.items())
        out.print(f"Decodes of one draft in ms, by number of guesses: {blocks}")
    if (afar := report.afar) is not None:
        out.print(
            f"A request to the base's server: round trip {afar.round_trip:.1f} ms, its decode and the"
            f" writing of the answer {afar.decode:.1f} ms,"
            f" transfer {afar.transfer:.1f} ms, reading {afar.ours:.1f} ms; {afar.kb:.1f} kB"
        )
    out.print(f"Combination, sampling and Python: {report.overhead_ms_per_token:.2f} ms a token")
    out.print(f"Peak memory: {report.peak_rss_mb:.0f} MB, with caches of {report.context} tokens\n")
    for sentence in sentences(report):
        out.print(sentence)


def sentences(report: Report) -> list[str]:
    """The main results, one or two lines: emulation compared to the base, and drafts compared to no drafts."""
    rates = report.tokens_per_s
    plain = f"Emulation decodes {rates['concurrent']:.1f} tokens/s: "
    plain += f"{report.ratio('concurrent', 'base_alone'):.2f} times the base by itself ({rates['base_alone']:.1f})."
    if report.drafts_off is not None:
        return [plain, f"Drafts were not measured: {report.drafts_off}."]
    auto = f"With drafts (auto) it decodes {rates['draft_auto']:.1f} tokens/s: "
    auto += f"{report.ratio('draft_auto', 'concurrent'):.2f} times emulation without drafts, "
    auto += f"{report.ratio('draft_auto', 'base_alone'):.2f} times the base by itself, "
    auto += f"{rates['draft_auto'] / report.limit['draft_auto']:.2f} times the limit that the decodes set."
    return [plain, auto]


def _ways(report: Report) -> Table:
    names = ["", "tokens/s", "/ base", "/ plain"]
    drafts = ["accepted", "tokens a step", "/ limit"] if report.acceptance else []
    table = _table(*names, *drafts)
    for way, rate in report.tokens_per_s.items():
        cells = [way, f"{rate:.1f}", f"{report.ratio(way, 'base_alone'):.2f}", f"{report.ratio(way, 'concurrent'):.2f}"]
        if way in report.acceptance:
            cells.append(f"{report.acceptance[way]:.3f}")
            cells.append(f"{report.tokens_per_block[way]:.2f}")
            cells.append(f"{rate / report.limit[way]:.2f}")
        table.add_row(*cells)
    return table


def _table(first: str, *numbers: str) -> Table:
    return Table(first, *(Column(name, justify="right", no_wrap=True) for name in numbers), box=None, pad_edge=False)
