"""Style sheet of the page of `lab compare`: two themes, narrow screens, and boxes that hide a run without a script."""

from __future__ import annotations

LIGHT = ("#0072b2", "#b25a00", "#007a5a", "#b3397f", "#6b4fc4", "#5f6b75")
DARK = ("#56b4e9", "#f0a040", "#3fc79a", "#ec8cc0", "#b39bff", "#aab4be")
"""Colours of runs on a light and a dark page, after Okabe and Ito; each has a contrast of at least 4.5 to its page."""
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
"""Of curves: the next kind begins when all colours are used."""

BASE = """
:root { --page: #fff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --mark: #f3f5f7; --warn: #9a3412; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171c; --text: #e6e9ed; --soft: #a2abb5; --line: #39414a; --mark: #1e232a; --warn: #ffb088; DARK }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem clamp(0.8rem, 3vw, 2.5rem); max-width: 100rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2rem 0 0.6rem; border-bottom: 1px solid var(--line); }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.2rem; }
nav a { color: inherit; padding: 0.3rem 0; }
p { max-width: 48rem; margin: 0.5rem 0; }
.note, .status, footer { color: var(--soft); font-size: 0.9rem; }
footer { margin-top: 2.5rem; }
:focus-visible { outline: 2px solid var(--run-1); outline-offset: 2px; }
.legend { list-style: none; padding: 0; margin: 0; }
.legend > li { margin: 0.5rem 0; overflow-wrap: anywhere; }
.legend input { width: 1.1rem; height: 1.1rem; vertical-align: -0.15rem; accent-color: var(--run-1); }
.swatch { width: 36px; height: 8px; vertical-align: 0.15rem; }
th .swatch { width: 22px; }
.notes { margin: 0.2rem 0 0.4rem; color: var(--warn); font-size: 0.9rem; }
.charts, .samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1.2rem; }
.samples { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 0.95rem; margin-bottom: 0.2rem; overflow-wrap: anywhere; }
.samples img { max-width: 100%; height: auto; display: block; }
.curves { width: 100%; height: auto; display: block; font-size: 11px; }
.curves text { fill: var(--soft); }
.curves .axis, .curves .grid { stroke: var(--line); fill: none; }
.curves polyline, .swatch path { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; padding: 0.3rem 0; overflow-wrap: anywhere; }
.scrolled { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--page); min-width: min(13rem, 32vw);
  max-width: 45vw;
  white-space: normal; overflow-wrap: break-word; }
.settings td { text-align: left; min-width: 4rem; max-width: 24rem; white-space: normal; overflow-wrap: break-word; }
.key { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; font-size: 0.9rem; overflow-wrap: anywhere; max-width: none; }
"""


def style(runs: int) -> str:
    """Return the style sheet for a number of runs."""
    light = " ".join(f"--run-{number}: {_of(LIGHT, number)};" for number in range(1, runs + 1))
    dark = " ".join(f"--run-{number}: {_of(DARK, number)};" for number in range(1, runs + 1))
    rules = [BASE.replace("LIGHT", light).replace("DARK", dark)]
    for number in range(1, runs + 1):
        dash = DASHES[(number - 1) // len(LIGHT) % len(DASHES)]
        rules.append(f"svg .run-{number} {{ stroke: var(--run-{number}); stroke-dasharray: {dash}; }}")
        rules.append(f"circle.run-{number} {{ fill: var(--run-{number}); }}")
        hidden = f"body:has(#show-{number}:not(:checked))"
        rules.append(f"{hidden} main :not(.legend *).run-{number} {{ display: none; }}")
    return "\n".join(rules)


def _of(colours: tuple[str, ...], number: int) -> str:
    return colours[(number - 1) % len(colours)]
