"""The report's style sheet: light and dark, narrow and wide, on a screen and on paper."""

from typing import Final

__all__ = ["STYLE"]

# Pairs of text and background have a contrast of at least 4.5 to 1 (tests/apps/eval/test_page.py computes it).
LIGHT: Final = """
  --paper: #ffffff; --card: #f7f8fa; --ink: #1a1f26; --soft: #566070; --line: #dfe3e9; --axis: #c3cad4;
  --accent: #1a5fb4; --good: #1d6b3f; --bad: #a33016;
  --up1: #e3edfa; --up2: #c2d9f5; --up3: #96bfee; --down1: #fdf0d5; --down2: #fadfa6; --down3: #f4c467;
"""
DARK: Final = """
  --paper: #14171b; --card: #1c2026; --ink: #e6e9ee; --soft: #a0aab8; --line: #2e353e; --axis: #465060;
  --accent: #7fb2f5; --good: #7fcf9f; --bad: #f2a08c;
  --up1: #1b2c42; --up2: #1f4068; --up3: #27588f; --down1: #372c16; --down2: #54401a; --down3: #77591d;
"""
STYLE: Final = (
    ":root { color-scheme: light dark;"
    + LIGHT
    + "}\n@media (prefers-color-scheme: dark) { :root {"
    + DARK
    + """} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
main, header, footer { max-width: 66rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 3.5rem; }
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -0.02em; font-weight: 650; margin: 0.1rem 0 0.5rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; font-weight: 650; margin: 0 0 0.3rem; }
h3 { font-size: 1rem; font-weight: 650; margin: 2rem 0 0.4rem; overflow-wrap: anywhere; }
p { max-width: 44rem; margin: 0.4rem 0 0.9rem; }
.eyebrow { color: var(--soft); font-size: 0.85rem; letter-spacing: 0.02em; margin: 0; }
.about, .note, .sure, .under, .unit, figcaption .unit { color: var(--soft); }
.note { font-size: 0.9rem; }
nav { margin: 1.4rem 0 0; font-size: 0.9rem; }
nav ul { list-style: none; margin: 0; padding: 0.7rem 0; display: flex; flex-wrap: wrap; gap: 0.3rem 1.4rem;
  border-block: 1px solid var(--line); }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
section { padding: 2.6rem 0 0; }
.lead { font-size: 1.3rem; line-height: 1.45; letter-spacing: -0.005em; max-width: 50rem; margin: 0.2rem 0 1.1rem; }
.findings { margin: 0; padding-left: 1.1rem; max-width: 48rem; }
.findings li { margin: 0.35rem 0; }
.warning { border-left: 3px solid var(--bad); background: var(--card); padding: 0.8rem 1.1rem; margin: 1rem 0;
  max-width: 48rem; border-radius: 0 4px 4px 0; }
.warning strong { color: var(--bad); }
.scroll { overflow-x: auto; margin: 0.6rem 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; line-height: 1.4; }
th, td { text-align: right; padding: 0.5rem 0 0.5rem 1.3rem; vertical-align: top; border-bottom: 1px solid var(--line);
  font-weight: 400; }
thead th { color: var(--soft); font-size: 0.8rem; vertical-align: bottom; line-height: 1.3; border-color: var(--axis); }
th[scope="row"], thead th:first-child, td.text, th.text { text-align: left; }
th[scope="row"] { min-width: 7.5rem; }
.wide th, .wide td { white-space: nowrap; padding-left: 1.1rem; }
.wide thead th { white-space: normal; min-width: 5.2rem; }
.sure, .under { display: block; font-size: 0.8rem; } .sure { white-space: nowrap; }
.mine strong.emulated { color: var(--accent); }
.mine th strong, .slim th[scope="row"], .wide th[scope="row"] { white-space: nowrap; }
.narrow { display: none; }
.slim { width: auto; min-width: min(100%, 24rem); } .slim th, .slim td { padding-left: 2rem; }
th:first-child, td:first-child, .slim th:first-child, .wide th:first-child { padding-left: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin: 0.9rem 0 1.5rem; }
.tiles dt { color: var(--soft); font-size: 0.85rem; display: flex; align-items: center; gap: 0.4rem; }
.tiles dd { margin: 0; font-size: 2.1rem; font-weight: 650; letter-spacing: -0.02em; line-height: 1.25; }
.tiles .sure { font-size: 0.8rem; font-weight: 400; letter-spacing: 0; }
.tiles .emulated dd { color: var(--accent); }
.better { color: var(--good); } .worse { color: var(--bad); } .none { color: var(--soft); }
td.picture, th.picture { width: 40%; min-width: 8rem; padding-right: 0.5rem; }
.parts .picture { width: 30%; }
.strip, .ticks { display: block; overflow: visible; }
svg text { fill: var(--soft); font-size: 11.5px; }
.axis { stroke: var(--axis); } .grid { stroke: var(--line); }
.span { stroke-width: 3; stroke-linecap: round; } .span.soft { stroke: var(--axis); }
.span.accent { stroke: var(--accent); opacity: 0.4; }
.accent { fill: var(--accent); } .dark { fill: var(--ink); }
.open { fill: var(--paper); stroke: var(--accent); stroke-width: 2; }
.hollow { fill: var(--paper); stroke: var(--ink); stroke-width: 1.6; }
.mark { stroke: var(--ink); stroke-width: 1.6; }
.line { stroke: var(--accent); stroke-width: 2; } .whisker { stroke: var(--accent); stroke-width: 1.6; opacity: 0.45; }
.ring { fill: none; stroke: var(--accent); stroke-width: 1.6; }
.side { stroke: var(--soft); stroke-width: 1.3; stroke-dasharray: 5 4; } .side.tuned { stroke-dasharray: 2 3; }
.side.upper { stroke-dasharray: none; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.6rem 2.2rem;
  margin: 1rem 0 0.5rem; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: 0.9rem; }
figcaption .unit { font-weight: 400; margin-left: 0.6rem; }
.plot { padding: 0.8rem 4.4rem 1.9rem 3.1rem; }
.legend { list-style: none; padding: 0; margin: 0.6rem 0; display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem;
  font-size: 0.85rem; color: var(--soft); }
.legend li { display: flex; align-items: center; gap: 0.35rem; }
.item { border-top: 1px solid var(--line); padding: 1.3rem 0 0.9rem; break-inside: avoid; }
.item h3 { margin: 0; font-size: 0.85rem; font-weight: 400; color: var(--soft); display: flex; flex-wrap: wrap;
  gap: 0.1rem 1rem; }
.prompt { font-size: 1.05rem; font-weight: 600; margin: 0.25rem 0 0.7rem; max-width: 50rem; }
.prompt, .tokens, .answers dd, .said { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.tokens { background: var(--card); border-radius: 4px; padding: 0.7rem 0.9rem; margin: 0.3rem 0 0.9rem; line-height: 2;
  max-width: none; }
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 13rem), 1fr)); gap: 0.8rem 1.6rem;
  margin: 0.6rem 0 0.4rem; font-size: 0.92rem; }
.answers dt { font-weight: 600; } .answers dd { margin: 0.15rem 0 0; }
.answers .under { white-space: normal; }
.t { border-radius: 2px; padding: 0.1em 0; border-bottom: 0 solid transparent; }
.u1, .u2, .u3 { border-bottom: 1px solid var(--accent); } .d1, .d2, .d3 { border-bottom: 1px dashed var(--bad); }
.u1 { background: var(--up1); } .u2 { background: var(--up2); border-bottom-width: 2px; }
.u3 { background: var(--up3); border-bottom-width: 4px; }
.d1 { background: var(--down1); } .d2 { background: var(--down2); border-bottom-width: 2px; }
.d3 { background: var(--down3); border-bottom-width: 4px; }
.o { outline: 1.5px solid var(--ink); outline-offset: 1px; }
.end, .key { font-size: 0.78rem; padding: 0.15em 0.45em; }
.key { white-space: nowrap; margin-right: 0.5rem; }
pre, code { font: 0.86rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); border-radius: 4px; padding: 0.9rem 1.1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
td code { background: var(--card); padding: 0.1em 0.35em; border-radius: 3px; white-space: pre-wrap; }
mark { background: var(--up2); color: inherit; padding: 0.1em 0; } mark.less { background: var(--down2); }
dl.words { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: 0.5rem 1.4rem; max-width: 52rem;
  font-size: 0.92rem; }
dl.words dt { font-weight: 600; } dl.words dd { margin: 0; }
footer { color: var(--soft); font-size: 0.85rem; padding: 3rem 1.5rem 3.5rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 40rem) {
  main, header, footer { padding-left: 1.1rem; padding-right: 1.1rem; }
  header { padding-top: 2rem; } h1 { font-size: 1.8rem; } .lead { font-size: 1.15rem; }
  th, td { padding-left: 0.8rem; } th[scope="row"] { min-width: 5.5rem; }
  dl.words { grid-template-columns: 1fr; gap: 0.1rem; } dl.words dd { margin-bottom: 0.7rem; }
  .broad, .ticks .middle { display: none; } .narrow { display: block; white-space: nowrap; }
  td.picture, th.picture { width: 38%; min-width: 6rem; } .kinds td.picture, .parts td.picture { min-width: 9rem; }
  .slim th, .slim td { padding-left: 1rem; } .tiles { gap: 0.8rem 1.8rem; } .tiles dd { font-size: 1.7rem; }
}
@media print {
  :root {"""
    + LIGHT
    + """}
  body { font-size: 10.5pt; } nav { display: none; } section { padding-top: 1.4rem; }
  main, header, footer { max-width: none; padding-left: 0; padding-right: 0; }
  h2, h3 { break-after: avoid; } figure, tr, .item, .warning, pre { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: 9pt; } th[scope="row"], .wide thead th { min-width: 0; }
  .wide { font-size: 7pt; } .wide .sure { font-size: 6pt; } .wide thead th { font-size: 6.5pt; }
  .wide th, .wide td { padding-left: 0.35rem; } th:first-child { padding-left: 0; }
  .t, mark, .tokens, pre, svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
)
