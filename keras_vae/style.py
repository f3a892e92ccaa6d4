"""How report.html looks, in light and dark, on a phone and on a desk. Colours are variables: drawings and swatches use them by class."""

COLOURS = 10  # of runs and of classes: s0 ... as strokes of lines, k0 ... of marks

STYLE = """
:root {
  --page: #fbfaf8; --card: #fff; --ink: #22252a; --soft: #5d636c; --line: #e2dfd9; --accent: #2f6f9f; --good: #2c7a4b; --bad: #b3402f;
  --mark: #fdf3d7; --dim: 1;
  --c0: #2f6f9f; --c1: #d9722e; --c2: #3f8f55; --c3: #c23f57; --c4: #7d5bb5;
  --c5: #8a6d3b; --c6: #cc5fa6; --c7: #1b9aa0; --c8: #86861c; --c9: #5c6670;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171a; --card: #1c1f23; --ink: #e4e4e1; --soft: #a3a9b1; --line: #33383f; --accent: #7db8e0; --good: #74c794; --bad: #f08f7c;
    --mark: #3a3420; --dim: .88;
    --c0: #6fb2e0; --c1: #f09a5c; --c2: #74c794; --c3: #ef7d90; --c4: #b79be8;
    --c5: #cfae74; --c6: #f09bd0; --c7: #56cdd2; --c8: #cfcf5a; --c9: #a9b3bd;
  }
}
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 5rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word;
}
h1, h2, h3, h4, p, dl, dd, figure, ul { margin: 0; }
h1 { font-size: clamp(1.7rem, 5vw, 2.4rem); line-height: 1.15; font-weight: 650; letter-spacing: -.015em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; font-weight: 620; margin-bottom: .9rem; }
h3, h4 { font-size: 1rem; font-weight: 600; margin-bottom: .5rem; overflow-wrap: anywhere; }
h4 { font-weight: 400; font-size: .95rem; }
.kicker { color: var(--accent); font-size: .85rem; font-weight: 600; letter-spacing: .04em; margin-bottom: .4rem; }
.lead { color: var(--soft); max-width: 46rem; margin-top: .7rem; }
nav {
  display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1.4rem 0 0; padding: .8rem 0;
  border-block: 1px solid var(--line); font-size: .9rem;
}
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
section { padding-top: 2.6rem; }
.hint, figcaption { color: var(--soft); font-size: .9rem; line-height: 1.45; max-width: 46rem; }
.sentences { padding-inline-start: 2rem; }
.sentences li { margin-block-end: .6rem; }
.sentences div:nth-child(2):last-child { color: var(--soft); }
.hint { margin-block: .5rem; }
figcaption { margin-top: .6rem; }
figcaption:first-child { margin: 0 0 .3rem; }
figcaption strong { color: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 11.5rem), 1fr)); gap: .8rem; }
.tiles > div { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1rem; }
.tiles dt { color: var(--soft); font-size: .9rem; }
.tiles dd:not(.hint) { font-size: 1.5rem; font-weight: 620; letter-spacing: -.01em; font-variant-numeric: tabular-nums; line-height: 1.3; }
.tiles small { font-size: .9rem; font-weight: 400; color: var(--soft); letter-spacing: 0; }
.tiles .hint { font-size: .82rem; margin: .2rem 0 0; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.8rem 1.6rem; }
.row > div, .charts > * { min-width: 0; }
.row + h3 { margin-top: 2.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.6rem; }
.latent { grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.latent > :nth-child(2) { grid-row: span 2; }
.plain { list-style: none; padding: 0; display: grid; gap: .4rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
img { display: block; max-width: 100%; height: auto; border-radius: .3rem; filter: brightness(var(--dim)); }
svg { display: block; width: 100%; max-width: 36rem; height: auto; overflow: visible; font-size: 11px; font-variant-numeric: tabular-nums; }
svg text { fill: var(--soft); }
svg .name {
  fill: var(--ink); font-size: 13px; font-weight: 650; stroke: var(--page); stroke-width: 4px; paint-order: stroke; stroke-linejoin: round;
}
.grid { stroke: var(--line); } .tick { stroke: var(--soft); }
.line { fill: none; stroke: var(--soft); stroke-width: 1.8; stroke-linejoin: round; }
.line.faint { stroke-width: 1; stroke-opacity: .35; } .line.first { stroke: var(--accent); stroke-width: 2.4; }
.line.train { stroke-width: 1.3; stroke-dasharray: 3 3; }
.dots { fill: none; stroke: var(--soft); stroke-width: 5; stroke-linecap: round; stroke-opacity: .75; }
.dots.square { stroke-linecap: square; stroke-width: 4; }
.active { fill: var(--accent); } .idle { fill: none; stroke: var(--soft); stroke-width: .8; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .9rem; color: var(--soft); margin-block: .2rem .8rem; }
.key span { display: inline-flex; align-items: center; gap: .4rem; overflow-wrap: anywhere; }
.swatch { width: 24px; flex: none; } .dot { width: 12px; flex: none; } .dot .dots { stroke-width: 8; stroke-opacity: 1; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; }
th, td {
  text-align: left; padding: .32rem 1.1rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: baseline; font-weight: 400;
}
thead th { color: var(--soft); font-size: .85rem; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
.numbers td { white-space: nowrap; } .scroll thead th { max-width: 12rem; overflow-wrap: break-word; }
.numbers th small { color: var(--soft); }
.numbers .best { font-weight: 700; }
.words td { max-width: 28rem; overflow-wrap: break-word; }
.words th { white-space: nowrap; }
.chosen { background: var(--mark); }
.cost { width: 100%; table-layout: fixed; }
.cost :nth-child(2) { width: 5.5rem; } .cost :nth-child(3) { width: 25%; }
.cost .share { padding-right: 0; vertical-align: middle; }
.share span { display: block; background: var(--accent); border-radius: .15rem; height: .6rem; min-width: 1px; }
.sum th, .sum td { font-weight: 650; border-bottom: 0; }
.pairs {
  display: grid; grid-template-columns: minmax(5.5rem, max-content) minmax(0, 1fr); gap: .3rem 1.2rem; font-size: .92rem;
  align-content: start;
}
.pairs dt { color: var(--soft); overflow-wrap: anywhere; } .pairs dd { overflow-wrap: anywhere; }
code, pre { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
pre {
  margin: .4rem 0 1.1rem; padding: .7rem .9rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
pre span { display: inline-block; max-width: 100%; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .5rem; }
.traversals {
  display: inline-grid; grid-template-columns: auto minmax(0, 1fr); gap: .2rem .7rem; font-size: .82rem;
  color: var(--soft); max-width: 100%;
}
.columns { grid-column: 2; display: flex; font-variant-numeric: tabular-nums; } .columns span { flex: 1; text-align: center; }
.rows { display: flex; flex-direction: column; white-space: nowrap; }
.rows span { flex: 1; display: flex; align-items: center; gap: .35rem; line-height: 1; }
.row > div, .charts > * { container-type: inline-size; }
@container (max-width: 26rem) {
  svg { font-size: 14px; }
  svg .name { font-size: 16px; }
}
""" + "".join(
    f".s{k}, .dots.k{k} {{ stroke: var(--c{k}); }} .name.k{k} {{ fill: var(--c{k}); }} span.k{k} {{ color: var(--c{k}); }}\n"
    for k in range(COLOURS)
)
