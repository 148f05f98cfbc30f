"""`wardstream feature-group`, `wardstream sql`, `wardstream online-read`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardstream.cli.context import OutputOption, ProjectOption, of
from wardstream.cli.output import Output, show, show_arrow, show_one
from wardstream.client.features import Feature, FeatureGroup, FeatureStore
from wardstream.errors import Conflict, Invalid, NotFound

app = typer.Typer(help="Create and look at feature groups.", no_args_is_help=True)
VersionOption = Annotated[int, typer.Option("--version", "-v")]


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="lower-case words joined by '_'")],
    primary_key: Annotated[list[str], typer.Option("--key", help="feature of the primary key; repeatable")],
    event_time: Annotated[str, typer.Option(help="feature with the time of the event")],
    feature: Annotated[
        list[str], typer.Option("--feature", help="name:type; repeatable; types: string int bigint float double boolean timestamp")
    ],
    version: Annotated[int | None, typer.Option("--version", "-v", help="left out: the next")] = None,
    description: Annotated[str, typer.Option()] = "",
    offline_only: Annotated[bool, typer.Option("--offline-only", help="no online rows")] = False,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a feature group: topic, schema, online rows and table."""
    features = []
    for each in feature:
        feature_name, colon, kind = each.partition(":")
        if not colon:
            raise Invalid(f"--feature {each} has no type; right is --feature {each}:double")
        features.append(Feature(feature_name, kind))
    made = _store(context, project).create_feature_group(
        name,
        version=version,
        description=description,
        primary_key=primary_key,
        event_time=event_time,
        features=features,
        online_enabled=not offline_only,
    )
    show_one(_row(made), output)


@app.command("list")
def list_(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """List the feature groups of a project."""
    show([_row(group) for group in _store(context, project).get_feature_groups()], output, empty="no feature groups")


@app.command("describe")
def describe(
    context: typer.Context, name: str, version: VersionOption = 1, project: ProjectOption = None, output: OutputOption = Output.TABLE
) -> None:
    """Show a feature group's features and how far its table is."""
    group = _group(context, project, name, version)
    show_one({**_row(group), "features": [f"{f.name}:{f.type}" for f in group.features], **group.progress()}, output)


@app.command("delete")
def delete(
    context: typer.Context,
    name: str,
    version: VersionOption = 1,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    project: ProjectOption = None,
) -> None:
    """Delete a version of a feature group with its topic, rows and table (owners)."""
    group = _group(context, project, name, version)
    if not yes:
        typer.confirm(f"Delete {group.name} version {group.version} with all its rows? This cannot be taken back", abort=True)
    group.delete()
    print(f"{group.name} version {group.version} is deleted")


@app.command("reconcile")
def reconcile(context: typer.Context, project: ProjectOption = None, output: OutputOption = Output.TABLE) -> None:
    """Compare each table with its topic: records = rows + repeats + deletions + dead letters; exit code 5 on a difference."""
    found = of(context).project(project).reconciliation()
    show(found, output, empty="no feature groups")
    if wrong := [f"{row['group']}_{row['version']}" for row in found if row["difference"] or not row["online_equal"]]:
        raise Conflict(f"tables that are not what their topics say: {', '.join(wrong)}")


def sql(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="one SELECT over feature groups; @file reads it from a file")],
    max_rows: Annotated[int | None, typer.Option(help="most rows to return")] = None,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Query the project's feature groups in SQL."""
    if query.startswith("@"):
        try:
            query = Path(query[1:]).read_text()
        except OSError as error:
            raise Invalid(f"{query[1:]} cannot be read: {error.strerror}") from error
    show_arrow(_store(context, project).sql(query, max_rows=max_rows), output)


def online_read(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="feature group")],
    entity: Annotated[list[str], typer.Argument(help="values of the primary key, composite ones as a,b")],
    version: VersionOption = 1,
    project: ProjectOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the newest value of each feature for some entities."""
    group = _group(context, project, name, version)
    parts = [value.split(",") if len(group.primary_key) > 1 else [value] for value in entity]
    if wrong := [value for value, split in zip(entity, parts, strict=True) if len(split) != len(group.primary_key)]:
        raise Invalid(f"{wrong[0]} does not give a value for each of {', '.join(group.primary_key)}")
    types = {feature.name: feature.type for feature in group.features}
    entities = {column: [_key(split[i], types[column], column) for split in parts] for i, column in enumerate(group.primary_key)}
    show_arrow(group.get_feature_vectors(entities), output)


def _key(text: str, kind: str, column: str) -> str | int:
    if kind not in ("int", "bigint"):
        return text
    try:
        return int(text)
    except ValueError as error:
        raise Invalid(f"{column} is a whole number, got {text!a}") from error


def _store(context: typer.Context, project: str | None) -> FeatureStore:
    return of(context).project(project).get_feature_store()


def _group(context: typer.Context, project: str | None, name: str, version: int) -> FeatureGroup:
    found = _store(context, project).get_feature_group(name, version)
    if found is None:
        raise NotFound(f"there is no feature group {name} version {version}")
    return found


def _row(group: FeatureGroup) -> dict[str, object]:
    return {
        "group": group.name,
        "version": group.version,
        "topic": group.topic,
        "primary_key": list(group.primary_key),
        "event_time": group.event_time,
        "online": group.online_enabled,
        "description": group.description,
    }
