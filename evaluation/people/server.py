"""The server of the pages: who may come in, what every answer carries, and the few addresses there are.

    GET  /join/TOKEN   an invitation: a cookie, and on to /
    GET  /             what the rater has to rate, or for who leads how far all are
    GET  /?on=N        a prompt of the rater's own, in the conversation that verdict N goes on with
    POST /verdict /ask /undo /invite /finish
    GET  /static/NAME  the style, the keys, the icon

Without a token everything is refused, with nothing in the answer. Pages hold no script of their own and load nothing from
elsewhere; texts of models and people are escaped, and the Content-Security-Policy would not run them either.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llamatrain.errors import UserError

from .collection import Collection
from .config import check_name
from .standing import standing
from .store import Item, Rater
from .task import Unclear

HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the invitation's address is a secret
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
MOST = 1 << 18  # bytes of a form
Answer = Callable[[Request], Awaitable[Response]]


class Limit:
    """A bucket per caller: `burst` calls at once, then `rate` per second."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def passes(self, caller: str) -> bool:
        """Count a call; tell whether it is within the limit."""
        now = time.monotonic()
        with self._lock:
            if len(self._left) > 10_000:  # of strangers from everywhere
                self._left.clear()
            left, before = self._left.get(caller, (float(self.burst), now))
            left = min(self.burst, left + (now - before) * self.rate)
            self._left[caller] = (max(0.0, left - 1), now)
        return left >= 1


def app_of(collection: Collection) -> FastAPI:
    """Return the server's application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.collection = collection
    loader = FileSystemLoader(HERE / "templates")
    app.state.pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    app.state.raters, app.state.strangers = Limit(20, 200), Limit(0.2, 20)
    app.state.secret = collection.store.remember("secret", secrets.token_hex(32)).encode()
    app.state.cookie = "llamatrain_" + hashlib.sha256(app.state.secret).hexdigest()[:8]  # ports share their cookies
    app.middleware("http")(guard)
    app.get("/join/{token}")(join)
    app.get("/static/{name}")(static)
    app.get("/")(page)
    for name, answer in {"verdict": verdict, "ask": ask, "undo": undo, "invite": invite, "finish": finish}.items():
        app.post(f"/{name}")(answer)
    return app


async def guard(request: Request, answer: Answer) -> Response:
    """Let raters in and nobody else, within the limits; put the headers on every answer."""
    response = await _guarded(request, answer)
    for name, value in HEADERS.items():
        response.headers[name] = value
    # Of a page the back button asks again, and gets what is open now.
    response.headers.setdefault("Cache-Control", "no-store")
    return response


async def _guarded(request: Request, answer: Answer) -> Response:
    state, caller = request.app.state, request.client.host if request.client else ""
    path = request.url.path
    token = path.removeprefix("/join/") if path.startswith("/join/") else request.cookies.get(state.cookie, "")
    rater = state.collection.store.who(token)
    if rater is None:
        return Response(status_code=403 if state.strangers.passes(caller) else 429)
    if not path.startswith("/static/") and not state.raters.passes(rater.name):
        return Response("Too many requests: wait a moment, then reload.", 429, media_type="text/plain")
    request.state.rater = rater
    if request.method == "POST":
        size = request.headers.get("content-length", "")
        if not size.isdigit() or int(size) > MOST:
            return Response("Too long.", 413, media_type="text/plain")
    return await answer(request)


async def fields(request: Request) -> dict[str, str]:
    """Return the texts of a form whose token shows that it came from a page of ours."""
    form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    own = form_token(request)
    return form if hmac.compare_digest(form.get("csrf", "").encode(), own.encode()) else {}


Form = Annotated[dict[str, str], Depends(fields)]


def form_token(request: Request) -> str:
    """Return what a rater's forms carry, which no other site can know."""
    secret: bytes = request.app.state.secret
    return hmac.new(secret, request.state.rater.token.encode(), hashlib.sha256).hexdigest()


# --- answers -----------------------------------------------------------------------------------------------------


def join(token: str, request: Request) -> Response:
    """Take an invitation: remember the token, and leave its address."""
    response = RedirectResponse("/", 303)
    # Lax, not strict: who comes from a link in a mail is sent on to / with it. Forms carry a token of their own.
    response.set_cookie(request.app.state.cookie, token, max_age=365 * 86400, httponly=True, samesite="lax")
    return response


def static(name: str) -> Response:
    """Return one of the files that lie there."""
    known = {path.name: path for path in (HERE / "static").iterdir()}
    kept = {"Cache-Control": "private, max-age=600"}
    return FileResponse(known[name], headers=kept) if name in known else Response(status_code=404)


def page(request: Request) -> Response:
    """Return what the rater has to do now."""
    return shown(request)


def shown(request: Request, note: str = "", status: int = 200, text: str = "") -> Response:
    """Return the rater's page, with a note where something has to be said; `text` is what they were writing."""
    collection: Collection = request.app.state.collection
    rater: Rater = request.state.rater
    store, each = collection.store, collection.cfg.each
    done, wanted = store.progress(each)
    about = {"title": collection.task.title, "rater": rater.name, "done": done, "wanted": wanted, "note": note}
    about |= {"csrf": form_token(request), "out": str(collection.out)}
    if rater.leads:
        links = {one.name: f"{request.base_url}join/{one.token}" for one in store.raters() if not one.leads}
        table = {"raters": standing(collection), "links": links, "finished": collection.finished.is_set()}
        return _rendered(request, "lead", status, about | table)
    last, over = store.last(rater.name), collection.finished.is_set()
    about |= {"last": None if last is None or over else last.number, "finished": over, "asks": collection.task.asks}
    before = None if over else collection.conversation(rater, request.query_params.get("on", ""))
    given = None
    if not over and (before is None or store.open_after(rater.name, before[0].number)):
        given = store.give(rater.name, each, collection.cfg.gold_every, lambda item: swapped(collection, item, rater))
    about["key"] = secrets.token_hex(16)  # sent twice, by a double click or by the back button, a form counts once
    if given is not None:
        item, second_first = given
        return _rendered(request, collection.cfg.task, status, about | _item(collection, item, second_first))
    if over or not collection.task.asks:
        return _rendered(request, "done", status, about)
    follows, messages = (before[0].number, before[1]) if before is not None else ("", [])
    about |= {"follows": follows, "messages": messages, "text": text, "since": time.time()}
    about |= {"task": collection.cfg.task, **collection.task.asking()}
    return _rendered(request, "ask", status, about)


def _item(collection: Collection, item: Item, swapped: bool) -> dict[str, Any]:
    return {"item": item.id, **collection.task.view(item, swapped)}


def _rendered(request: Request, name: str, status: int, values: dict[str, Any]) -> Response:
    return HTMLResponse(request.app.state.pages.get_template(f"{name}.html").render(values), status)


def swapped(collection: Collection, item: Item, rater: Rater) -> bool:
    """Draw which response stands first: a function of the seed, the item and the rater."""
    drawn = hashlib.sha256(f"{collection.cfg.seed}/{item.id}/{rater.name}".encode()).digest()
    return drawn[0] % 2 == 1


def verdict(request: Request, form: Form) -> Response:
    """Keep a verdict and go on."""
    collection: Collection = request.app.state.collection
    rater: Rater = request.state.rater
    item = collection.items.get(form.get("item", ""))
    order = None if item is None else collection.store.swapped(item.id, rater.name)
    if item is None or order is None or not form.get("key"):
        return shown(request, "That form was not from this page: nothing was kept.", 400)
    try:
        content = collection.task.read(item, order, form)
    except Unclear as error:
        return shown(request, str(error), 400)
    collection.say(rater, item, form["key"], content)
    last = collection.store.last(rater.name)
    goes_on = item.owner is not None and last is not None and last.item == item.id
    return RedirectResponse(f"/?on={last.number}" if goes_on and last is not None else "/", 303)


def ask(request: Request, form: Form) -> Response:
    """Have the models answer what the rater wrote."""
    try:
        request.app.state.collection.ask(request.state.rater, form)
    except ValueError as error:  # what a form lacks, or what the chat format does not take
        return shown(request, str(error), 400, form.get("text", ""))
    return RedirectResponse("/", 303)


def undo(request: Request, form: Form) -> Response:
    """Take the last verdict back: the one that the page named, however often the button was pressed."""
    if form.get("number", "").isdigit():
        request.app.state.collection.undo(request.state.rater, int(form["number"]))
    return RedirectResponse("/", 303)


def invite(request: Request, form: Form) -> Response:
    """Invite another rater."""
    name = form.get("name", "").strip()
    if not request.state.rater.leads:
        return Response(status_code=403)
    try:
        check_name(name)
    except UserError:
        return shown(request, "A name has letters, digits, spaces and . @ + - _, at most 40 of them.", 400)
    request.app.state.collection.store.invite(name)
    return RedirectResponse("/", 303)


def finish(request: Request, form: Form) -> Response:
    """Publish what is there."""
    if not request.state.rater.leads:
        return Response(status_code=403)
    if form:
        try:
            request.app.state.collection.finish()
        except UserError as error:
            return shown(request, str(error), 400)
    return RedirectResponse("/", 303)


# --- serving -----------------------------------------------------------------------------------------------------


def serve(collection: Collection, linger: float, ready: Callable[[int], None]) -> None:
    """Serve until the collection is finished, and `linger` seconds more, or a signal comes; `ready` is told the port."""
    cfg = collection.cfg
    listening = socket.socket(socket.AF_INET6 if ":" in cfg.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((cfg.host, cfg.port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"host={cfg.host} port={cfg.port}: cannot listen there ({error}); need a free one, port=0 takes any"
        ) from None
    # No access log: it would hold the invitations.
    settings = uvicorn.Config(app_of(collection), log_level="warning", access_log=False, server_header=False)
    server = uvicorn.Server(settings)

    def end() -> None:
        collection.finished.wait()
        time.sleep(linger)
        server.should_exit = True

    threading.Thread(target=end, daemon=True).start()
    ready(listening.getsockname()[1])
    server.run(sockets=[listening])
