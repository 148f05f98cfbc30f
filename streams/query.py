"""What streams asks of the query process: which feature groups there are."""

from __future__ import annotations

from featurestore.model import FeatureGroup, group_from_document
from streams.control import bearer
from wardstream.client.transport import Transport
from wardstream.names import ProjectName


class Query:
    """The query process' routes; thread-safe."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def feature_groups(self) -> list[FeatureGroup]:
        """Return every feature group of every project."""
        return [group_from_document(found["project"], found) for found in self._transport.json("GET", "/internal/v1/feature-groups")]

    def feature_group(self, grant: str, project: ProjectName, name: str, version: int) -> FeatureGroup:
        """Return one that the caller may know of; raises `NotFound`."""
        found = self._transport.json("GET", f"/v1/projects/{project}/feature-groups/{name}/{version}", headers=bearer(grant))
        return group_from_document(project, found)
