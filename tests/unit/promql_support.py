"""PromQL read with its own parser, far enough to tell what an expression asks for and what its answer is labelled with.

Prometheus answers an expression over a series or label that does not exist with nothing at all: an alert that never
fires, an empty panel. Here that is an error.
"""

import re
from collections.abc import Callable, Collection
from typing import Any

import promql_parser as promql
from prometheus_client import Histogram
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    Expr,
    LabelModifierType,
    MatchOp,
    MatrixSelector,
    NumberLiteral,
    ParenExpr,
    StringLiteral,
    SubqueryExpr,
    UnaryExpr,
    VectorSelector,
)

from app.api.http.middleware import _METHODS
from app.core import exposition
from app.core.enums import Channel, EntityType, JobState, OrderStatus, Queue, ReturnStatus
from app.core.monitoring import REGISTRY, UNKNOWN_ROUTE
from app.main import openapi_document
from app.services.jobs.service import JobKind
from app.services.operations.service_levels import _CASES
from app.services.payments.gateway.metrics import OUTCOMES
from app.tasks.runner import Verdict
from app.utils.storage import _OUTCOMES

JOBS = {"api", "worker", "relay", "beat"}
OF_TARGETS = frozenset({"job", "instance"})
"""Labels that Prometheus gives to all that it scrapes."""

_OF_PROMETHEUS = {"up": OF_TARGETS, "ALERTS": frozenset({"alertname", "alertstate", "severity", *OF_TARGETS})}
_STATES = {*OrderStatus, *ReturnStatus}
_VALUES: dict[str, Collection[str]] = {
    "job": JOBS,
    "alertstate": {"pending", "firing"},
    "channel": {channel.lower() for channel in Channel},
    "entity": set(EntityType),
    "from_state": _STATES,
    "to_state": _STATES,
    "kind": set(JobKind),
    "queue": set(Queue),
    "state": set(JobState),
    "sla": set(_CASES),
    "method": _METHODS,
    "route": {*openapi_document()["paths"], UNKNOWN_ROUTE},
    "status": {str(status) for status in range(100, 600)},
    "outcome": {
        *(verdict.lower() for verdict in Verdict),
        *OUTCOMES.values(),
        *("ok", *_OUTCOMES.values()),
        *("sent", "rejected", "unavailable"),
    },
}
_SET_OPERATORS = {"and", "or", "unless"}
_WITHOUT_LABELS = {"absent", "scalar", "time", "vector"}
_OF_GRAFANA = {"$__rate_interval": "5m", "$__range": "1h"}


class NoAnswerError(Exception):
    """Nothing of the application can ever answer the expression."""


def application_series() -> dict[str, frozenset[str]]:
    """Return series → labels, as the processes show them and Prometheus keeps them; a histogram is three series."""
    found: dict[str, frozenset[str]] = {}
    for metric in REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(metric.type, [""])
        for name in (metric.name + suffix for suffix in suffixes):
            of_bucket = {"le"} if name.endswith("_bucket") else set()
            found[name] = frozenset({*REGISTRY._names_to_collectors[name]._labelnames, *of_bucket})  # type: ignore[attr-defined]
    for gauge in (*exposition.job_gauges({}, {}, 0), *exposition.backup_gauges(None, 0)):
        found[gauge.name] = frozenset(gauge._labelnames)  # type: ignore[attr-defined]
    for family in text_string_to_metric_families(exposition.of_api(None).decode()):
        if family.name == "articurated_database_up":
            found[family.name] = frozenset()
    return {name: labels | OF_TARGETS for name, labels in found.items()}


def metric_of(series: str) -> str:
    """Return the metric that a series belongs to."""
    return re.sub(r"_(bucket|sum|count)$", "", series)


SERIES = application_series() | _OF_PROMETHEUS
BUCKETS = {
    f"{metric._name}_bucket": {floatToGoString(bound) for bound in metric._upper_bounds}
    for metric in REGISTRY._names_to_collectors.values()
    if isinstance(metric, Histogram)
}


def parse(expression: str) -> Expr:
    """Parse an expression of a rule or a panel.

    Raises:
        ValueError: it is no PromQL.
    """
    for name, duration in _OF_GRAFANA.items():
        expression = expression.replace(name, duration)
    parsed: Expr = promql.parse(expression)
    return parsed


def series_of(node: Expr) -> set[str]:
    """Return the names of all series that an expression reads."""
    found: set[str] = set()

    def visit(inner: Expr) -> None:
        if isinstance(inner, VectorSelector):
            found.add(str(inner.name))

    promql.walk(node, visit)
    return found


def labels_of(node: Expr) -> frozenset[str]:
    """Return the labels that the answer may have.

    Raises:
        NoAnswerError: it reads, matches, groups or joins by what does not exist.
    """
    read = _READ.get(type(node))
    if read is None:
        raise NoAnswerError(f"{type(node).__name__} is not understood")
    return read(node)


def _selected(selector: VectorSelector) -> frozenset[str]:
    name = str(selector.name)
    if name not in SERIES:
        raise NoAnswerError(f"there is no series {name}")
    for matcher in selector.matchers.matchers:
        if matcher.name not in SERIES[name]:
            raise NoAnswerError(f"{name} has no label {matcher.name}")
        known = BUCKETS[name] if matcher.name == "le" else _VALUES.get(matcher.name)
        if known is None:
            raise NoAnswerError(f"the values of {matcher.name} are told nowhere")
        for wanted in _alternatives(matcher.op, matcher.value):
            if not any(re.fullmatch(wanted, value) for value in known):
                raise NoAnswerError(f"{name}: {matcher.name} is never {wanted}")
    return SERIES[name]


def _alternatives(operator: MatchOp, value: str) -> list[str]:
    if operator in (MatchOp.Equal, MatchOp.NotEqual):
        return [re.escape(value)]
    return [value] if "(" in value else value.split("|")


def _called(call: Call) -> frozenset[str]:
    given = frozenset[str]().union(*(labels_of(argument) for argument in call.args))
    if call.func.name == "histogram_quantile":
        if "le" not in given:
            raise NoAnswerError("a quantile needs the label le")
        return given - {"le"}
    return frozenset() if call.func.name in _WITHOUT_LABELS else given


def _aggregated(aggregate: AggregateExpr) -> frozenset[str]:
    given = labels_of(aggregate.expr)
    if aggregate.modifier is None:
        return given if str(aggregate.op) in {"topk", "bottomk"} else frozenset()
    named = frozenset(aggregate.modifier.labels)
    if unknown := named - given:
        raise NoAnswerError(f"nothing in {aggregate.expr} has {sorted(unknown)}")
    return named if aggregate.modifier.type == AggModifierType.By else given - named


def _joined(binary: BinaryExpr) -> frozenset[str]:
    left, right = labels_of(binary.lhs), labels_of(binary.rhs)
    if _is_number(binary.lhs) or _is_number(binary.rhs):
        return left | right
    operator = str(binary.op)
    if binary.modifier is not None and binary.modifier.matching is not None:
        if binary.modifier.matching.type != LabelModifierType.Include:
            raise NoAnswerError(f"{binary}: say on(), which names what it joins by")
        on = frozenset(binary.modifier.matching.labels)
        if not on <= left & right:
            raise NoAnswerError(f"{binary}: both sides must have {sorted(on)}")
        return left if operator in _SET_OPERATORS else on
    if operator == "or":
        return left | right
    if left != right:
        raise NoAnswerError(f"{binary}: {sorted(left)} never meet {sorted(right)}")
    return left


def _is_number(node: Expr) -> bool:
    if isinstance(node, (ParenExpr, UnaryExpr)):
        return _is_number(node.expr)
    return isinstance(node, NumberLiteral) or (isinstance(node, Call) and node.func.name in {"scalar", "time"})


_READ: dict[type[Expr], Callable[[Any], frozenset[str]]] = {
    VectorSelector: _selected,
    MatrixSelector: lambda node: _selected(node.vector_selector),
    ParenExpr: lambda node: labels_of(node.expr),
    UnaryExpr: lambda node: labels_of(node.expr),
    SubqueryExpr: lambda node: labels_of(node.expr),
    Call: _called,
    AggregateExpr: _aggregated,
    BinaryExpr: _joined,
    NumberLiteral: lambda _: frozenset(),
    StringLiteral: lambda _: frozenset(),
}
