"""The console's pages, a module a subject; `router` has all of them."""

from gateway.console import account, audit, certificates, entrance, members, projects, shares
from gateway.console.visit import router

__all__ = ["account", "audit", "certificates", "entrance", "members", "projects", "router", "shares"]
