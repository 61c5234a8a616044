"""`fields=id,status`: an answer with no more than what the caller wants."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args
from urllib.parse import urlencode

from fastapi import Response
from pydantic import BaseModel
from starlette.types import Scope

from app.api.http.responses import Answer
from app.utils.exceptions import InvalidInputError
from app.utils.strict_json import printable

FIELDS = "fields"
_LIST = frozenset({"data", "pagination"})


@dataclass(frozen=True, slots=True)
class Representation:
    """Names of an answer, or of each item of a list: those it can be thinned to, or those that were chosen."""

    names: tuple[str, ...]
    is_list: bool

    def thinned(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the content with these names only; what a page says of itself stays."""
        if not self.is_list:
            return _only(content, self.names)
        return {**content, "data": [_only(item, self.names) for item in content["data"]]}


def _only(item: Mapping[str, Any], chosen: Sequence[str]) -> dict[str, Any]:
    return {name: item[name] for name in chosen if name in item}


def representation_of(model: Any) -> Representation | None:
    """Return what a response model can be thinned to; None where it is no model."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return None
    fields = model.model_fields
    is_list = fields.keys() == _LIST
    models = _models_in(fields["data"].annotation) if is_list else [model]
    # A list of one of two kinds of items offers the names of both; an item has its own.
    names = dict.fromkeys(name for kind in models for name in kind.model_fields)
    return Representation(tuple(names), is_list)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def take_fields(scope: Scope, query: Iterable[tuple[str, str]], offered: Representation) -> Representation | None:
    """Return what the query chooses, and take `fields` out of it: the route does not see it.

    Raises:
        InvalidInputError: a name that is not there, one given twice, or none.
    """
    pairs = list(query)
    given = [value for name, value in pairs if name == FIELDS]
    if not given:
        return None
    chosen = tuple(given[0].split(","))
    unknown = [name for name in chosen if name not in offered.names]
    if unknown:
        fault = f'has no "{printable(unknown[0])}"' if unknown[0] else "names nothing"
        raise InvalidInputError((FIELDS, f"{fault}; there is: {', '.join(offered.names)}"))
    if len(set(chosen)) != len(chosen):
        raise InvalidInputError((FIELDS, "gives a name twice"))
    scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != FIELDS]).encode()
    return Representation(chosen, offered.is_list)


def thinned(response: Response, chosen: Representation) -> Answer:
    """Return the answer with the chosen names only.

    Raises:
        InvalidInputError: the answer is a document, not JSON.
    """
    if not isinstance(response, Answer):
        raise InvalidInputError((FIELDS, "is for JSON; ask for it with Accept: application/json"))
    return response.saying(chosen.thinned(response.content))


def parameter(representation: Representation) -> dict[str, Any]:
    """Return the parameter for the document."""
    what = "each item's" if representation.is_list else "the answer's"
    return {
        "name": FIELDS,
        "in": "query",
        "required": False,
        "description": f"Leave out all but these of {what} members; a list with commas, each name once.",
        "style": "form",
        "explode": False,
        "schema": {
            "type": "array",
            "items": {"type": "string", "enum": list(representation.names)},
            "minItems": 1,
            "uniqueItems": True,
        },
    }


def or_thinned(whole: Mapping[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an answer that may have been thinned: the whole one, or some of its members.

    Args:
        whole: schema of the whole answer, a reference.
        schemas: what references refer to; those that are missing are added.
    """
    name = _name(whole)
    if schemas[name]["properties"].keys() != _LIST:
        return {"anyOf": [whole, _some_of(name, schemas)]}
    properties = schemas[name]["properties"]
    kinds = [kind["items"] for kind in properties["data"].get("anyOf", [properties["data"]])]
    some = [_some_of(_name(kind), schemas) for kind in kinds]
    items = some[0] if len(some) == 1 else {"anyOf": some}
    data = {"type": "array", "title": "Data", "items": items}
    return {"anyOf": [whole, _added(name, {**schemas[name], "properties": {**properties, "data": data}}, schemas)]}


def _some_of(name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    some = {key: value for key, value in schemas[name].items() if key not in {"required", "examples"}}
    return _added(name, some, schemas)


def _added(name: str, schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    thinned_name = f"{name}Thinned"
    schemas[thinned_name] = {**schema, "title": thinned_name, "description": "What `fields` leaves of it."}
    return {"$ref": f"#/components/schemas/{thinned_name}"}


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]
