"""`/openapi.json`: made from what each view says of itself by `@describes`. Tests hold the answers to it.

A view that says nothing is a mistake that a test finds; nothing here guesses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flask import Flask

import quorumfs
from sidecar import schemas
from sidecar.auth import Role
from sidecar.schemas import Schema

View = TypeVar("View", bound=Callable[..., Any])

JSON = "application/json"
_ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")


@dataclass(frozen=True, slots=True)
class Contract:
    """What one method of one route takes and gives.

    `answers`: the schema by status; None: not JSON, of the types `media`. `errors`: further statuses, with the JSON
    that every error has.
    """

    answers: Mapping[int, Schema | None]
    errors: tuple[int, ...] = ()
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Schema | None = None
    media: tuple[str, ...] = (JSON,)


ALWAYS = (400, 403, 429, 500, 503, 504)
WITH_ROLE = (401,)
WITH_BODY = (413, 415)


def describes(contract: Contract) -> Callable[[View], View]:
    """Marks a view with what it takes and gives."""

    def mark(view: View) -> View:
        view.contract = contract  # type: ignore[attr-defined]  # read by `document` and by the tests
        return view

    return mark


def contract_of(view: Callable[..., Any]) -> Contract | None:
    found: Contract | None = getattr(view, "contract", None)
    return found


def role_of(view: Callable[..., Any]) -> Role:
    role: Role = getattr(view, "required_role", Role.ANON)
    return role


def document(app: Flask) -> dict[str, Any]:
    """The OpenAPI document of every route that says something of itself."""
    paths: dict[str, Any] = {}
    for rule in sorted(app.url_map.iter_rules(), key=lambda one: one.rule):
        view = app.view_functions[rule.endpoint]
        contract = contract_of(view)
        if contract is None:
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            path = _ARGUMENT.sub(r"{\1}", rule.rule)
            paths.setdefault(path, {})[method.lower()] = _operation(rule.rule, rule.endpoint, view, contract)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "QuorumFS management agent",
            "version": quorumfs.__version__,
            "description": "Beside every node. Reads work without a leader and say how old they are.",
        },
        "paths": paths,
        "components": {
            "schemas": {"Error": schemas.ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(rule: str, endpoint: str, view: Callable[..., Any], contract: Contract) -> dict[str, Any]:
    role = role_of(view)
    summary, _, rest = (view.__doc__ or endpoint).strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": endpoint,
        "summary": summary,
        "description": " ".join(rest.split()),
        "x-role": role.name.lower(),
        "parameters": [*_arguments(rule), *_query(contract)],
        "responses": _responses(role, contract),
    }
    if role is not Role.ANON:
        operation["security"] = [{"token": []}, {}]
    if contract.body is not None:
        operation["requestBody"] = {
            "required": bool(contract.body.get("required")),
            "content": {JSON: {"schema": contract.body}},
        }
    return operation


def _arguments(rule: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": schemas.TEXT}
        for name in _ARGUMENT.findall(rule)
    ]


def _query(contract: Contract) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "schema": schema} for name, schema in contract.query.items()]


def _responses(role: Role, contract: Contract) -> dict[str, Any]:
    error = {"description": "refused", "content": {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}}
    told: dict[str, Any] = {str(status): error for status in errors_of(role, contract)}
    for status, schema in contract.answers.items():
        content = {
            kind: {"schema": schema if schema is not None else schemas.TEXT} for kind in contract.media
        }
        told[str(status)] = {"description": "answered", "content": content}
    return dict(sorted(told.items()))


def errors_of(role: Role, contract: Contract) -> set[int]:
    """The statuses with which this may be refused."""
    found = {*ALWAYS, *contract.errors}
    if role is not Role.ANON:
        found.update(WITH_ROLE)
    if role >= Role.OPERATOR:
        found.update(WITH_BODY)
    return found - contract.answers.keys()
