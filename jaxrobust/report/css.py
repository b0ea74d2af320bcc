"""The style sheet of the page: one column, light and dark, down to a phone."""

# In dark mode charts are inverted and their hues turned back. 0.9 of an inversion turns
# the charts' white into exactly --paper, so that they have no visible edge.
CSS = """
:root {
  --paper: #ffffff; --ink: #1f2328; --quiet: #5b636d; --line: #dfe3e8;
  --soft: #f5f7f9; --accent: #0072b2; --answer: #eef6fb;
  --alarm: #b3261e; --alarm-paper: #fdeceb;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #1a1a1a; --ink: #e6e6e6; --quiet: #a3a9b0; --line: #3a3d41;
    --soft: #232527; --accent: #62b5e5; --answer: #1b2a34;
    --alarm: #ff8a80; --alarm-paper: #3b1a18;
  }
  img.chart { filter: invert(0.9) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 940px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 1.85rem; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 12px; }
section { margin: 0 0 44px; overflow-wrap: break-word; }
p { margin: 0 0 12px; max-width: 72ch; }
p.question { font-size: 1.1rem; color: var(--quiet); margin-bottom: 20px; }
p.answer, p.alert {
  max-width: none; padding: 14px 18px; border-left: 4px solid var(--accent);
  border-radius: 4px; background: var(--answer); font-size: 1.05rem;
}
p.alert {
  border: 2px solid var(--alarm); border-left-width: 8px; font-weight: 600;
  margin: 16px 0 12px; background: var(--alarm-paper); color: var(--alarm);
}
.scroll { overflow-x: auto; margin: 0 0 10px; }
table { border-collapse: collapse; width: 100%; font-size: 0.94rem; }
th {
  text-align: left; font-weight: 600; font-size: 0.84rem; color: var(--quiet);
  vertical-align: bottom; border-bottom: 1.5px solid var(--quiet);
}
th, td { padding: 7px 14px 7px 0; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th.n, td.n {
  text-align: right; white-space: nowrap; padding: 7px 0 7px 18px;
  font-variant-numeric: tabular-nums;
}
td:first-child { min-width: 7.5em; }
td:last-child { overflow-wrap: anywhere; }
th.n.s { padding-right: 3.6em; }
.spread {
  display: inline-block; min-width: 3.4em; text-align: left; margin-left: 0.35em;
  font-size: 0.86em; color: var(--quiet);
}
.tag {
  font-size: 0.74rem; color: var(--quiet); border: 1px solid var(--line);
  border-radius: 9px; padding: 0 7px; white-space: nowrap; margin-left: 4px;
}
p.note, figcaption { font-size: 0.88rem; line-height: 1.5; color: var(--quiet); }
p.note, figcaption { max-width: 88ch; }
figure { margin: 0 0 18px; }
.row {
  display: flex; flex-wrap: wrap; align-items: flex-start;
  gap: 18px 24px; margin: 0 0 8px;
}
img { display: block; max-width: 100%; height: auto; }
details { margin: 14px 0; }
summary { cursor: pointer; color: var(--accent); font-size: 0.94rem; padding: 4px 0; }
pre {
  margin: 8px 0 12px; padding: 12px 14px; border-radius: 6px; background: var(--soft);
  font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
footer { font-size: 0.82rem; color: var(--quiet); border-top: 1px solid var(--line);
  padding-top: 14px; }
@media (max-width: 600px) {
  main { padding: 24px 16px 40px; }
  h1 { font-size: 1.45rem; }
  th.n, td.n { padding-left: 12px; }
  th.n.s { padding-right: 0; }
  .spread { display: block; min-width: 0; text-align: right; margin: 0; }
  td:first-child { min-width: 5em; }
  .tag { margin-left: 0; }
  .row { justify-content: center; }
}
@media print { p.answer, p.alert, pre { border: 1px solid var(--line); } }
"""
