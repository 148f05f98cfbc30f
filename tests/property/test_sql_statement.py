"""Whatever passes the gate names no table and no function that is not listed: by a grammar of SQL, sane and hostile mixed."""

import re

import sqlglot
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from featurestore.sql.statement import _FUNCTIONS, _SHAPES, MAX_CHARACTERS, TableShape, check
from tests.unit.test_sql_statement import HOSTILE
from wardstream.errors import Invalid, LimitExceeded, NotFound

TABLES = {
    "ecg_10s": TableShape("ecg_10s_1", ("bed", "event_time", "heart_rate")),
    "lab": TableShape("lab_2", ("patient", "crp")),
}
REGISTERED = {shape.registered for shape in TABLES.values()}
COLUMNS = {shape.registered: set(shape.columns) for shape in TABLES.values()}

names = st.sampled_from(
    [
        "ecg_10s",
        "ECG_10S",
        "lab",
        "a",
        "b",
        "secret",
        "duckdb_settings",
        "duckdb_views",
        "information_schema.tables",
        "sqlite_master",
        "main.lab",
        '"lab"',
        '"x""y"',
        '"/etc/passwd"',
        "'x.parquet'",
        "_source_0",
        "_with_0",
        "user",
        "current_user",
        "pragma_database_list",
        "other.ecg_10s",
    ]
)
columns = st.sampled_from(
    ["bed", "heart_rate", "crp", "x", "*", "ecg_10s", "lab.*", "a.x", "user", "rowid", "ecg_10s.bed", '"heart_rate"', "$1", "?", "#1"]
)
literals = st.sampled_from(
    ["1", "1.5", "'x'", "'it''s'", "NULL", "TRUE", "INTERVAL 1 DAY", "[1, 2]", "{'a': 1}", "DATE '2026-01-01'", "0x1F", "1e3", "''"]
)
functions = st.sampled_from(
    [
        "avg",
        "count",
        "max",
        "median",
        "lower",
        "date_trunc",
        "coalesce",
        "getenv",
        "query",
        "read_csv",
        "read_text",
        "glob",
        "current_setting",
        "duckdb_settings",
        "query_table",
        "hash",
        "list_transform",
        "error",
        "range",
        "unnest",
        "nextval",
        '"getenv"',
        "main.getenv",
        "COLUMNS",
    ]
)
operators = st.sampled_from(
    ["+", "-", "*", "/", "%", "||", "=", "<>", "<", "AND", "OR", "LIKE", "IS DISTINCT FROM", "->", "->>", "::", "IN", "~", "**", "@>"]
)
types = st.sampled_from(
    ["INTEGER", "VARCHAR", "DOUBLE", "TIMESTAMPTZ", "regclass", "ENUM('a')", "STRUCT(a INT)", "my_type", "DECIMAL(10, 2)", "INT[]", "JSON"]
)
junk = st.sampled_from(
    [
        "",
        ";",
        "; DROP TABLE lab",
        "-- x",
        "/* ; */",
        "FOR UPDATE",
        "INTO x",
        "USING SAMPLE 5",
        "LIMIT 1",
        "OFFSET 1",
        "AT (VERSION => 1)",
        ")",
        "(",
    ]
)


def expressions(depth: int) -> st.SearchStrategy[str]:
    if depth == 0:
        return st.one_of(columns, literals)
    inner = expressions(depth - 1)
    return st.one_of(
        columns,
        literals,
        st.builds("{}({})".format, functions, inner),
        st.builds("{}({}, {})".format, functions, inner, inner),
        st.builds("({} {} {})".format, inner, operators, inner),
        st.builds("CAST({} AS {})".format, inner, types),
        st.builds("{}::{}".format, inner, types),
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, inner, inner, inner),
        st.builds("{}({}) OVER (PARTITION BY {} ORDER BY {})".format, functions, inner, inner, inner),
        st.builds("{}({}) FILTER (WHERE {})".format, functions, inner, inner),
        st.builds("({})".format, selects(depth - 1)),
        st.builds("EXISTS ({})".format, selects(depth - 1)),
        st.builds("{} IN ({})".format, inner, selects(depth - 1)),
        st.builds("{}.{}({})".format, inner, functions, inner),
        st.builds("x -> {}".format, inner),
    )


def sources(depth: int) -> st.SearchStrategy[str]:
    plain = st.one_of(names, st.builds("{} AS {}".format, names, names), st.builds("{} AS t(a, b)".format, names))
    if depth == 0:
        return plain
    inner = sources(depth - 1)
    return st.one_of(
        plain,
        st.builds("({}) AS {}".format, selects(depth - 1), names),
        st.builds("{}({})".format, functions, expressions(0)),
        st.builds("{} JOIN {} ON {}".format, inner, inner, expressions(0)),
        st.builds("{} NATURAL JOIN {}".format, inner, inner),
        st.builds("{} ASOF JOIN {} USING (bed)".format, inner, inner),
        st.builds("{}, LATERAL ({}) AS l".format, inner, selects(depth - 1)),
        st.builds("{}, {}".format, inner, inner),
    )


def selects(depth: int) -> st.SearchStrategy[str]:
    body = st.builds(
        "{}SELECT {} FROM {}{} {}".format,
        st.one_of(st.just(""), st.just("") if depth == 0 else st.builds("WITH {} AS ({}) ".format, names, selects(depth - 1))),
        expressions(depth),
        sources(depth),
        st.one_of(
            st.just(""),
            st.builds(" WHERE {}".format, expressions(depth)),
            st.builds(" GROUP BY {}".format, expressions(0)),
            st.builds(" ORDER BY {}".format, expressions(depth)),
        ),
        st.one_of(st.just(""), st.just(""), st.just(""), junk),
    )
    return st.one_of(body, body, st.builds("{} UNION ALL {}".format, body, body), st.builds("FROM {}".format, names))


wrappers = st.sampled_from(
    ["{}", "{}", "{}", "{}", "EXPLAIN {}", "COPY ({}) TO 'x'", "CREATE TABLE x AS {}", "SUMMARIZE {}", "PREPARE q AS {}", "{}; {}"]
)
statements = st.builds(lambda wrapper, select: wrapper.format(select, select), wrappers, selects(2))


def never_names_what_is_not_listed(sql: str) -> None:
    try:
        checked = check(sql, TABLES)
    except (Invalid, NotFound, LimitExceeded):
        return
    assert set(checked.reads) <= REGISTERED
    for table, read in checked.reads.items():
        assert read <= COLUMNS[table]
    # What runs is read again, by nobody who knows what was meant.
    trees = sqlglot.parse(checked.sql, read="duckdb")
    assert len(trees) == 1
    tree = trees[0]
    assert tree is not None
    with_names = {cte.alias for cte in tree.find_all(exp.CTE)}
    assert all(re.fullmatch(r"_with_\d+", name) for name in with_names)
    for node in tree.find_all(exp.Table):
        assert isinstance(node.this, exp.Identifier)
        assert not node.db
        assert not node.catalog
        assert node.name in REGISTERED | with_names
    assert {table.name for table in tree.find_all(exp.Table)} - with_names == set(checked.reads)
    for part in tree.walk():
        assert type(part) in _SHAPES | _FUNCTIONS, type(part)
        if isinstance(part, exp.Identifier):
            assert part.args["quoted"]


@settings(max_examples=200, deadline=None)
@given(statements)
def test_what_passes_the_gate_names_no_unlisted_table_or_function(sql: str) -> None:
    never_names_what_is_not_listed(sql)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(HOSTILE), st.data())
def test_hostile_statements_with_a_piece_cut_out_or_put_in_name_nothing_unlisted(sql: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(sql)))
    end = data.draw(st.integers(start, len(sql)))
    piece = data.draw(st.one_of(st.just(""), names, expressions(1), junk))
    never_names_what_is_not_listed(sql[:start] + piece + sql[end:])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
@example("\ud800")
@example("'" * 199)
@example("SELECT " + "(" * 190)
def test_any_text_is_answered_with_an_error_of_ours_or_a_checked_statement(text: str) -> None:
    assert len(text) <= MAX_CHARACTERS
    never_names_what_is_not_listed(text)


def test_the_grammar_produces_statements_that_pass() -> None:
    passed = 0

    # The same statements each time: how many of them pass is a fact about the grammar, not about luck.
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(statements)
    def count(sql: str) -> None:
        nonlocal passed
        try:
            check(sql, TABLES)
        except (Invalid, NotFound, LimitExceeded):
            return
        passed += 1

    count()
    assert passed > 5
