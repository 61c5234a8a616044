"""The page for people: what moved lately. It shows no key and no token, and escapes every value."""

from typing import Any

from jinja2 import Environment

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5"><title>ArtiCurated payment gateway</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: light dark; --ink: #1f2430; --soft: #667085; --line: #e4e7ec; --card: #fff;
  --ground: #f6f5f2; --accent: #8a4b2a; --good: #067647; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #eceae6; --soft: #9aa0ab; --line: #33363d;
  --card: #1d1f24; --ground: #141519; --accent: #e0a27e; --good: #75e0a7; --bad: #fda29b; } }
* { box-sizing: border-box } body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif } main { max-width: 88rem; margin: 0 auto; padding: 2rem 1.25rem 4rem }
h1 { font: 600 1.6rem/1.2 Georgia, serif; margin: 0 } h1 span { color: var(--accent) }
h2 { font-size: 1rem; margin: 2.25rem 0 .6rem } p { color: var(--soft); margin: .3rem 0 0 }
.sums { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: 1.5rem }
.sum { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1.1rem }
.sum b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums }
.sum small { color: var(--soft) }
.box { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { padding: .5rem .7rem; text-align: left; white-space: nowrap; font-size: .9rem }
th { color: var(--soft); font-size: .8rem; font-weight: 500 } tr + tr > td, thead + tbody td
  { border-top: 1px solid var(--line) } .money { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .85em } .captured, .succeeded { color: var(--good) } .failed { color: var(--bad) }
.none { padding: 1rem; color: var(--soft) }
</style>
</head>
<body><main>
<h1>ArtiCurated <span>payment gateway</span></h1>
<p>Development gateway: no real money moves here. It keeps a ledger of its own.</p>
{%- if balances %}<div class="sums">
{%- for currency, sums in balances.items() %}{% for name in ("captured", "refunded", "net") %}
<div class="sum"><small>{{ name }}</small><b>{{ sums[name] }} {{ currency }}</b></div>
{%- endfor %}{% endfor %}</div>{% endif %}
{%- macro cells(item) %}<td class="{{ item.status }}">{{ item.status }}
{%- if item.failure_code %} ({{ item.failure_code }}){% endif %}</td>
<td class="money">{{ item.amount }} {{ item.currency }}</td>{% endmacro %}
<h2>Latest payments</h2><div class="box">
{%- if payments %}<table><thead><tr><th>When</th><th>Payment</th><th>Reference</th><th>Status</th>
<th class="money">Amount</th><th class="money">Refunded</th><th>Received by</th></tr></thead><tbody>
{%- for item in payments %}<tr><td>{{ item.created[:19]|replace("T", " ") }}</td><td><code>{{ item.id }}</code></td>
<td><code>{{ item.reference }}</code></td>{{ cells(item) }}<td class="money">{{ item.amount_refunded }}</td>
<td>{{ item.payment_method or item.source }}</td></tr>{% endfor %}</tbody></table>
{%- else %}<div class="none">None yet.</div>{% endif %}</div>
<h2>Latest refunds</h2><div class="box">
{%- if refunds %}<table><thead><tr><th>When</th><th>Refund</th><th>Reference</th><th>Status</th>
<th class="money">Amount</th><th>Reason</th></tr></thead><tbody>
{%- for item in refunds %}<tr><td>{{ item.created[:19]|replace("T", " ") }}</td><td><code>{{ item.id }}</code></td>
<td><code>{{ item.reference }}</code></td>{{ cells(item) }}<td>{{ item.reason or "" }}</td></tr>{% endfor %}
</tbody></table>{% else %}<div class="none">None yet.</div>{% endif %}</div>
</main></body></html>
"""

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_PAGE = Environment(autoescape=True).from_string(_TEMPLATE)


def render(payments: list[dict[str, Any]], refunds: list[dict[str, Any]], balances: dict[str, dict[str, str]]) -> str:
    """Return the page as HTML, given wire objects (newest first) and the sums per currency."""
    return _PAGE.render(payments=payments, refunds=refunds, balances=balances)
