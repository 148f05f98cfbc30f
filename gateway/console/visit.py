"""What all pages of the console share: who visits, what may be offered, how forms are taken and pages are made.

Server-rendered; the policy below forbids anything that a name typed by a stranger could become. No page has a rule of its own:
what is offered follows from `tenancy.policy.decide`, and what is sent is decided by the process behind.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from starlette.datastructures import FormData

from gateway.authentication import SESSION_COOKIE, Caller, Callers
from gateway.console.forms import Form, Sent
from gateway.upstream import Upstream
from tenancy.model import Principal
from tenancy.policy import Action, decide, require
from wardstream.client.transport import path_part
from wardstream.errors import Denied, Invalid, Unauthenticated, Unavailable, WardstreamError
from wardstream.names import ProjectName, parse_project

FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "static" / "htmx.min.js"
TOKEN_FIELD = "form_token"  # noqa: S105 - a field's name

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers hide the origin of our own forms too, and the one-time link goes to nobody but us as it is.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# No field of ours is longer than a list of a thousand names.
_MOST_FIELDS = 3000


class ConsoleRoute(APIRoute):
    """Answers errors as pages: who is not known is asked to log in, and comes back to where they were."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See the class."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except Unauthenticated as error:
                # Whoever comes without a session has done nothing wrong; whose session is over is told so.
                reason = error.message if SESSION_COOKIE in request.cookies else None
                return login_page(status=error.status, reason=reason, back=request.url.path)
            except WardstreamError as error:
                return page("error.html", status=error.status, error=error)
            except RequestValidationError:
                wrong = Invalid("this address, or what was sent to it, cannot be read")
                return page("error.html", status=wrong.status, error=wrong)

        return answered


# Every module of the console adds its pages to this.
router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)


@dataclass(frozen=True)
class Link:
    """Something that may be offered."""

    label: str
    href: str
    danger: bool = False


@dataclass(frozen=True)
class Secret:
    """Something that is shown this once."""

    title: str
    value: str
    expires_at: str | None


@dataclass(frozen=True)
class Visit:
    """One request of somebody who is known. `session` is None for a caller with a key or a certificate, who sends no forms."""

    request: Request
    caller: Caller
    session: str | None
    control: Upstream

    @property
    def principal(self) -> Principal:
        """Who visits."""
        return self.caller.principal

    def may(self, action: Action, project: ProjectName | None = None) -> bool:
        """Return whether `action` is to be offered."""
        return decide(self.principal, action, project=project).allowed

    def require(self, action: Action, project: ProjectName | None) -> None:
        """Return where `action` may be offered; raises `Denied` or `NotFound`."""
        require(decide(self.principal, action, project=project), f"project {project}" if project is not None else "this")

    def offered(self, project: ProjectName | None, *links: tuple[Action, Link]) -> list[Link]:
        """Return those of `links` whose action the visitor may do in `project`."""
        return [link for action, link in links if self.may(action, project)]

    async def get(self, path: str) -> Any:
        """Return what control answers."""
        return await self.control.json("GET", path, grant=self.caller.grant)

    async def send(self, method: str, path: str, body: object = None) -> Any:
        """Let control do something and return its answer; raises what it refuses with."""
        return await self.control.json(method, path, json=body, grant=self.caller.grant)

    async def step(
        self, action: Action, project: ProjectName | None, form: Callable[[], Awaitable[Form]], act: Callable[[Sent], Awaitable[Response]]
    ) -> Response:
        """Ask with `form`, or do what was asked with `act`; what does not fit is told beside the values that were entered.

        The form is shown to whom `action` may be offered. What is sent goes to the process behind in any case, which decides.
        """
        if self.request.method != "POST":
            return self.page("form.html", form=await self._asked(action, project, form))
        sent = await self._sent()
        try:
            return await act(sent)
        except (Denied, Unauthenticated):
            raise
        except WardstreamError as error:
            asked = await self._asked(action, project, form)
            return self.page("form.html", status=error.status, form=asked.filled(sent), error=error)

    async def _asked(self, action: Action, project: ProjectName | None, form: Callable[[], Awaitable[Form]]) -> Form:
        self.require(action, project)
        return await form()

    def page(self, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
        """Return a page with the visitor's name, navigation and form token."""
        links = [Link("Projects", "/console/")]
        # An administrator's audit is the platform's, a member's the project's.
        if self.may(Action.AUDIT_READ, self.principal.project):
            links.append(Link("Audit", "/console/audit"))
        account = self.may(Action.ACCOUNT_MANAGE, self.principal.project)
        token = form_token(self.session) if self.session is not None else ""
        shared = {"visitor": self.principal, "account": account, "session": self.session, "form_token": token, "links": links}
        return page(template, status=status, **shared, **values)

    def done(
        self,
        title: str,
        back: Link,
        *,
        settled: bool = True,
        seconds: float | None = None,
        says: Sequence[str] = (),
        secret: Secret | None = None,
    ) -> HTMLResponse:
        """Return the page that says what was done, and whether every broker and process shows it; a secret in it is shown this once."""
        return self.page("done.html", title=title, back=back, settled=settled, seconds=seconds, says=says, secret=secret)

    async def _sent(self) -> Sent:
        require_own_form(self.request)
        found = await self.request.form(max_files=0, max_fields=_MOST_FIELDS)
        if self.session is None:
            raise Denied("forms are for a session of the console: log in there")
        if not hmac.compare_digest(_text(found, TOKEN_FIELD), form_token(self.session)):
            raise Denied("this form is of another session: open its page again")
        return Sent(found)


async def visit(request: Request) -> Visit:
    """Return the visit of whoever sent `request`; raises `Unauthenticated` for nobody."""
    callers: Callers = request.app.state.callers
    return Visit(request, await callers.caller(request), callers.session_of(request), request.app.state.upstreams["control"])


Visiting = Annotated[Visit, Depends(visit)]


def project_path(project: ProjectName, *parts: str) -> str:
    """Return the path at control of something in a project."""
    return "/".join(["/v1/projects", path_part(project), *(path_part(part) for part in parts)])


def project_page(project: ProjectName, *parts: str) -> str:
    """Return the address of a project's page."""
    return "/".join(["/console/projects", path_part(project), *(path_part(part) for part in parts)])


def tabs(visit: Visit, project: ProjectName) -> list[Link]:
    """Return the pages of a project that the visitor may see."""
    audit = f"/console/audit?project={path_part(project)}"
    return visit.offered(
        project,
        (Action.PROJECT_DESCRIBE, Link("Overview", project_page(project))),
        (Action.MEMBER_LIST, Link("Members", project_page(project, "members"))),
        (Action.SHARE_LIST, Link("Shares", project_page(project, "shares"))),
        (Action.CERTIFICATE_LIST, Link("Certificates", project_page(project, "certificates"))),
        (Action.AUDIT_READ, Link("Audit", audit)),
    )


async def named_project(project: str) -> ProjectName:
    """Return the project of an address; raises `InvalidName`."""
    return parse_project(project)


ProjectOf = Annotated[ProjectName, Depends(named_project)]


def form_token(session: str) -> str:
    """Return what a form of this session carries: nobody without the session's cookie can make it, and every gateway knows it."""
    return hmac.new(session.encode(), b"wardstream console form", hashlib.sha256).hexdigest()


def require_own_form(request: Request) -> None:
    """Raise `Denied` for a form that another site sends; every browser says where a form comes from."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and origin != f"https://{host}":
        raise Denied("this form is sent from the console alone")


def login_page(*, status: int = 200, reason: str | None = None, back: str | None = None, name: str = "", project: str = "") -> HTMLResponse:
    """Return the page that asks who somebody is, with the account that was entered; `back` is where they go on afterwards."""
    return page("login.html", status=status, reason=reason, back=within(back), name=name, project=project)


def within(path: str | None) -> str:
    """Return `path` if it is one of the console's, else its first page: a login leads nowhere else."""
    plain = path is not None and path.startswith("/console/") and "\\" not in path and "//" not in path and path.isprintable()
    return path if plain and path is not None else "/console/"


def page(template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """Return a page; without a visitor it has no navigation."""
    shown = {"visitor": None, "session": None, "form_token": "", "links": [], "script": SCRIPT.exists(), **values}
    return HTMLResponse(_TEMPLATES.get_template(template).render(shown), status_code=status, headers=HEADERS)


def away(error: Unavailable) -> HTMLResponse:
    """Return the first page as far as it goes while nobody can be recognised: with no state but the one that the error tells."""
    return page(
        "home.html", status=error.status, projects=None, more=0, offers=[], processes=[("gateway", None), ("control", error.message)]
    )


def _text(found: FormData, name: str) -> str:
    value = found.get(name)
    return value if isinstance(value, str) else ""


def _moment(value: str | datetime | None) -> Markup:
    """Return a time as people read it, in UTC, to the second in its attribute."""
    if not value:
        return Markup("")
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), escape(f"{at:%Y-%m-%d %H:%M}"))


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["moment"] = _moment
    made.globals["token_field"] = TOKEN_FIELD
    return made


_TEMPLATES = _environment()
