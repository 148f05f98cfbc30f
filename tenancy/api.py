"""Control over HTTP: `public` is what the gateway passes on, `platform` and `internal` are for the platform's processes.

Another process that takes grants sets `app.state.verifier` (a `GrantVerifier`) and depends on `caller`.
"""

from tenancy.routes import audit, credentials, people, projects, quotas, reconcile, shares
from tenancy.routes.chains import router as chains
from tenancy.routes.context import bearer, caller, internal, platform, public, require_peer
from tenancy.routes.voids import router as voids

__all__ = [
    "audit",
    "bearer",
    "caller",
    "chains",
    "credentials",
    "internal",
    "people",
    "platform",
    "projects",
    "public",
    "quotas",
    "reconcile",
    "require_peer",
    "shares",
    "voids",
]
