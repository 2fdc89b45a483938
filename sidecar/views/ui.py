"""The web pages: files of the package, one table of them, nothing made on the way. Their data are the other endpoints.

They work without a network beyond this agent, and their policy lets them run no other script, use no other style and
ask no other server; nothing in them is inline.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from importlib import resources

from flask import Blueprint, Response, make_response, redirect, request
from werkzeug.exceptions import NotFound

from sidecar import bodies
from sidecar.contract import Contract, describes

views = Blueprint("ui", __name__)

FIRST = "index.html"
TYPE_OF = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
MEDIA = tuple(TYPE_OF.values())


@dataclass(frozen=True, slots=True)
class Page:
    content: bytes
    content_type: str
    etag: str


@functools.cache
def pages() -> dict[str, Page]:
    """Every file of the web pages by its name."""
    found = {}
    for one in resources.files("sidecar").joinpath("ui").iterdir():
        kind = TYPE_OF.get(one.name.rpartition(".")[2])
        if kind is not None:
            content = one.read_bytes()
            found[one.name] = Page(
                content, f"{kind}; charset=utf-8", hashlib.sha256(content).hexdigest()[:16]
            )
    return found


@views.get("/")
@describes(Contract({302: None}, media=("text/html",)))
def first() -> Response:
    """Where the web pages are."""
    bodies.query(())
    response = make_response(redirect("ui/", 302))
    response.headers["Cache-Control"] = "no-cache"
    return response


@views.get("/ui/")
@describes(Contract({200: None, 304: None}, media=MEDIA))
def ui() -> Response:
    """The web pages."""
    bodies.query(())
    return _answer(pages()[FIRST])


@views.get("/ui/<name>")
@describes(Contract({200: None, 304: None}, errors=(404,), media=MEDIA))
def ui_file(name: str) -> Response:
    """A part of the web pages: a script, a style, a picture."""
    bodies.query(())
    page = pages().get(name)
    if page is None:
        raise NotFound
    return _answer(page)


def _answer(page: Page) -> Response:
    response = make_response(page.content)
    response.headers["Content-Type"] = page.content_type
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-cache"
    response.set_etag(page.etag)
    response.make_conditional(request)
    return response
