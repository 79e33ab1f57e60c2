"""``parity.json``: a report as strict JSON, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edgeconv.core import values
from edgeconv.core.wording import complaint
from edgeconv.errors import ParityError, printable
from edgeconv.report._consistent import contradictions
from edgeconv.report._report import Report, checked
from edgeconv.report._schema import SCHEMA_VERSION, ArtifactNode, ComparisonNode, FrontierNode, GraphNode, ReportNode

_WHERE = "parity.json"
_LINE = 320  # characters
_SHOWN = 300  # characters of a message
_MOST_VALUES = 1_500_000  # 100,000 rows of samples, which take seconds to read
_MOST_KEYS = 2**17  # of an object: there are no more steps between integers of 16 bits
_HINT = "run `edgeconv export` again to write a new report"


def to_json(report: Report) -> str:
    """Writes ``parity.json``.

    Strict JSON (RFC 8259: no ``NaN`` or ``Infinity``; see `edgeconv.report._schema` for what stands in their place),
    UTF-8 text, keys in the order of the schema, no timestamps, no folders. ``to_json(from_json(x)) == x``.

    Returns:
        The text, with a line feed at its end.
    """
    checked(report)
    node = ReportNode(
        schema_version=SCHEMA_VERSION,
        verdict="pass" if report.verdict == "pass" else "fail",
        reason=report.reason,
        model=report.model,
        description=report.description,
        source=dict(report.source),
        artifacts=tuple(ArtifactNode.of(artifact) for artifact in report.artifacts),
        comparisons=tuple(ComparisonNode.model_validate(row) for row in report.comparisons),
        graphs=tuple(GraphNode.model_validate(graph) for graph in report.graphs),
        environment={
            key: value if isinstance(value, str) else dict(value) for key, value in report.environment.items()
        },
        notes=report.notes,
        golden=report.golden,
        frontier=None if report.target_search is None else FrontierNode.model_validate(report.target_search),
    )
    plain = node.model_dump(mode="json", by_alias=True)
    return _written(plain, "") + "\n"


def from_json(text: str) -> Report:
    """Reads a ``parity.json`` of schema version 1.

    Returns:
        The report. Its artifacts' paths are bare file names: the caller knows in which folder they lie.

    Raises:
        ParityError: it is no strict JSON, of an unknown schema version, lacks or garbles a field, or its verdict is
            not what its comparisons say, or theirs not what their numbers say.
    """
    # 1. The form of each field.
    plain = _checked(values.text(text, "text", ParityError, hint="give the text of a parity.json"))
    try:
        node = ReportNode.model_validate_json(text, strict=True)
    except ValidationError as error:
        # Of a bound that fits neither of its two types pydantic tells both: the complaint about the type that was meant
        # is shown, and others come in the order of the file.
        details = error.errors(include_url=False)
        first = next((detail for detail in details if not _is_of_another_form(detail, plain)), details[0])
        place, what = _place(first, plain), complaint(first, table="an object")
        raise ParityError(_shown(f"{place}: {what}" if place else what), where=_WHERE, hint=_HINT) from error
    report = Report(
        model=node.model,
        description=node.description,
        source=node.source,
        artifacts=tuple(artifact.to_core() for artifact in node.artifacts),
        comparisons=tuple(row.to_core() for row in node.comparisons),
        graphs=tuple(graph.to_core() for graph in node.graphs),
        environment=node.environment,
        notes=node.notes,
        golden=node.golden,
        target_search=None if node.frontier is None else node.frontier.to_core(),
    )
    # 2. Whether they agree with one another.
    if node.verdict != report.verdict:
        what = f"its verdict is {node.verdict!r} but its comparisons say {report.verdict.value!r}: it was altered"
        raise ParityError(what, where=_WHERE, hint=_HINT)
    for what in contradictions(report):
        raise ParityError(f"{_shown(what)}: it was altered", where=_WHERE, hint=_HINT)
    return report


def _place(detail: ErrorDetails, plain: object) -> str:
    """The path of a field that pydantic complains of, without the names of a union's members."""
    parts: list[str] = []
    value = plain
    for part in detail["loc"]:
        if isinstance(value, dict) and (part in value or (detail["type"] == "missing" and part is detail["loc"][-1])):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _is_of_another_form(detail: ErrorDetails, plain: object) -> bool:
    """Whether the complaint is about the other member of a union: a bound is a tolerance or a fidelity."""
    return detail["type"] == "missing" and len(_place(detail, plain).split(".")) < len(detail["loc"])


def _shown(text: str) -> str:
    """A message that quotes the file, as one printable line of limited length."""
    line = printable(text)
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _written(value: object, indent: str) -> str:
    """JSON, indented by two spaces; lists of plain values stay on one line, else an error map takes 4096 lines."""
    deeper = indent + "  "
    items: Iterable[object] = value if isinstance(value, list) else ()
    if isinstance(value, dict):
        items = value.values()
    if not any(isinstance(item, dict | list) for item in items):
        line = _scalar(value)
        if isinstance(value, list) or len(line) <= _LINE:
            return line
    if isinstance(value, dict) and value:
        pairs = [f"{deeper}{_scalar(key)}: {_written(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(pairs) + f"\n{indent}}}"
    if isinstance(value, list):
        return "[\n" + ",\n".join(deeper + _written(item, deeper) for item in value) + f"\n{indent}]"
    return _scalar(value)


def _scalar(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _checked(text: str) -> dict[str, Any]:
    """The report as plain values, checked to be JSON of this schema version."""
    # Before each value stands one of these, so that there are no more values than that: told without parsing.
    if sum(map(text.count, ",[{")) > _MOST_VALUES:
        raise ParityError(f"it has more than {_MOST_VALUES:,} values", where=_WHERE, hint=_HINT)
    try:
        plain = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ParityError(_shown(f"it is not JSON: {error}"), where=_WHERE, hint=_HINT) from error
    version = plain.get("schema") if isinstance(plain, dict) else None
    if version is None or not isinstance(plain, dict):
        raise ParityError("it is not a parity report: it has no 'schema'", where=_WHERE, hint=_HINT)
    if version != SCHEMA_VERSION or isinstance(version, bool):
        what = f"its schema version is {_shown(repr(version))}; this edgeconv reads version {SCHEMA_VERSION}"
        raise ParityError(what, where=_WHERE, hint="read it with the edgeconv that wrote it, or " + _HINT)
    return plain


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """An object without duplicate keys: readers differ in which of two they take."""
    items = dict(pairs)
    if len(items) < len(pairs):
        raise ValueError("an object has a key twice")
    if len(items) > _MOST_KEYS:
        raise ValueError(f"an object has more than {_MOST_KEYS} keys")
    return items


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"the token {token} is not JSON")
