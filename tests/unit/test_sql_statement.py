"""The gate in front of the engine: what runs, in which words, and what never reaches it."""

import time

import pytest

from featurestore.sql.statement import MAX_CHARACTERS, CheckedStatement, TableShape, check
from wardstream.errors import Invalid, LimitExceeded, NotFound, WardstreamError

ECG = TableShape("ecg_10s_1", ("bed", "event_time", "heart_rate", "rmssd"))
LAB = TableShape("lab_2", ("patient", "event_time", "crp"))
TABLES = {"ecg_10s": ECG, "ecg_10s_1": ECG, "lab": LAB, "lab_2": LAB}

ALLOWED = [
    "SELECT * FROM ecg_10s",
    "FROM ecg_10s",
    "SELECT heart_rate FROM ecg_10s WHERE bed = 'bed1' ORDER BY event_time DESC LIMIT 10",
    "SELECT DISTINCT bed FROM ecg_10s;",
    "SELECT bed, avg(heart_rate), count(*), count(DISTINCT bed) FROM ecg_10s GROUP BY bed HAVING count(*) > 3",
    "SELECT bed, avg(heart_rate) FROM ecg_10s GROUP BY ALL ORDER BY ALL",
    "SELECT date_trunc('hour', event_time) AS h, median(heart_rate) FROM ecg_10s GROUP BY 1",
    "SELECT time_bucket(INTERVAL 5 MINUTE, event_time) AS w, max(heart_rate) FROM ecg_10s GROUP BY w",
    "SELECT quantile_cont(heart_rate, 0.95) FILTER (WHERE rmssd > 10) FROM ecg_10s",
    "SELECT *, row_number() OVER (PARTITION BY bed ORDER BY event_time) AS n FROM ecg_10s QUALIFY n = 1",
    "SELECT bed, heart_rate - lag(heart_rate) OVER w FROM ecg_10s WINDOW w AS (PARTITION BY bed ORDER BY event_time)",
    "SELECT avg(heart_rate) OVER (ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW) FROM ecg_10s",
    "WITH slow AS (SELECT bed FROM ecg_10s WHERE heart_rate < 50) SELECT count(*) FROM slow",
    "WITH a AS (SELECT 1 AS x), b AS (SELECT x + 1 AS y FROM a) SELECT * FROM b, a",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT sum(i) FROM n",
    "SELECT * FROM ecg_10s e JOIN lab l ON e.bed = l.patient AND l.event_time <= e.event_time",
    "SELECT * FROM ecg_10s e ASOF JOIN lab l ON e.bed = l.patient AND e.event_time >= l.event_time",
    "SELECT * FROM ecg_10s LEFT JOIN lab USING (event_time)",
    "SELECT * FROM ecg_10s, LATERAL (SELECT crp FROM lab WHERE lab.patient = ecg_10s.bed) AS newest",
    "SELECT heart_rate FROM ecg_10s UNION ALL SELECT crp FROM lab",
    "SELECT heart_rate FROM ecg_10s EXCEPT SELECT crp FROM lab",
    "SELECT heart_rate FROM ecg_10s INTERSECT SELECT crp FROM lab",
    "SELECT bed FROM ecg_10s WHERE heart_rate > (SELECT avg(heart_rate) FROM ecg_10s)",
    "SELECT bed FROM ecg_10s WHERE bed IN (SELECT patient FROM lab) AND EXISTS (SELECT 1 FROM lab)",
    "SELECT CASE WHEN heart_rate > 100 THEN 'fast' ELSE 'slow' END FROM ecg_10s",
    "SELECT CAST(heart_rate AS INTEGER), try_cast(bed AS BIGINT), heart_rate::VARCHAR FROM ecg_10s",
    "SELECT coalesce(rmssd, 0), nullif(rmssd, 0), greatest(rmssd, heart_rate) FROM ecg_10s",
    "SELECT bed FROM ecg_10s WHERE bed LIKE 'bed%' AND bed ILIKE 'B%' AND regexp_matches(bed, '^b')",
    "SELECT event_time + INTERVAL '1' DAY, date_diff('day', event_time, current_timestamp) FROM ecg_10s",
    "SELECT event_time AT TIME ZONE 'Europe/Stockholm' FROM ecg_10s",
    "SELECT extract(hour FROM event_time), year(event_time) FROM ecg_10s",
    "SELECT x FROM (VALUES (1), (2)) AS v(x)",
    "SELECT * EXCLUDE (bed) FROM ecg_10s",
    "SELECT * REPLACE (round(heart_rate) AS heart_rate) FROM ecg_10s",
    "SELECT list(heart_rate ORDER BY event_time) FROM ecg_10s GROUP BY bed",
    "SELECT string_agg(bed, ',') FROM ecg_10s",
    "SELECT bed, heart_rate FROM ecg_10s GROUP BY GROUPING SETS ((bed), (heart_rate))",
    "SELECT bed, sum(heart_rate) FROM ecg_10s GROUP BY ROLLUP (bed)",
    "SELECT * FROM ecg_10s USING SAMPLE 10",
    "SELECT heart_rate % 2, heart_rate // 2, -heart_rate, NOT (heart_rate > 1 OR rmssd IS NULL) FROM ecg_10s",
    "SELECT heart_rate FROM ecg_10s WHERE heart_rate IS DISTINCT FROM 1e3 AND rmssd BETWEEN 1 AND 2.5",
    "SELECT ECG_10S.heart_rate FROM ECG_10S",
    "SELECT corr(heart_rate, rmssd), regr_slope(heart_rate, rmssd) FROM ecg_10s",
    "SELECT arg_max(heart_rate, event_time) FROM ecg_10s GROUP BY bed",
    "SELECT 1 -- a comment is not carried over",
    "SELECT 'it''s; DROP TABLE lab' AS text",
]

WRITING = [
    "INSERT INTO ecg_10s VALUES (1)",
    "INSERT INTO ecg_10s SELECT * FROM ecg_10s",
    "UPDATE ecg_10s SET heart_rate = 1",
    "DELETE FROM ecg_10s",
    "TRUNCATE ecg_10s",
    "MERGE INTO ecg_10s USING lab ON true WHEN MATCHED THEN DELETE",
    "CREATE TABLE x AS SELECT * FROM ecg_10s",
    "CREATE OR REPLACE TABLE x (i INT)",
    "CREATE TEMP TABLE x (i INT)",
    "CREATE VIEW x AS SELECT 1",
    "CREATE SCHEMA s",
    "CREATE SEQUENCE s",
    "CREATE TYPE mood AS ENUM ('a')",
    "CREATE INDEX i ON ecg_10s (bed)",
    "CREATE MACRO m(a) AS a + 1",
    "CREATE FUNCTION f(a) AS a",
    "CREATE SECRET s (TYPE s3)",
    "DROP TABLE ecg_10s",
    "DROP VIEW ecg_10s_1",
    "DROP SCHEMA main CASCADE",
    "ALTER TABLE ecg_10s RENAME TO x",
    "ALTER VIEW ecg_10s RENAME TO lab",
    "SELECT * INTO x FROM ecg_10s",
    "COMMENT ON TABLE ecg_10s IS 'x'",
    "WITH a AS (DELETE FROM ecg_10s RETURNING *) SELECT * FROM a",
    "WITH a AS (INSERT INTO ecg_10s VALUES (1) RETURNING *) SELECT * FROM a",
    "SELECT * FROM ecg_10s FOR UPDATE",
]
FILES = [
    "COPY ecg_10s TO '/tmp/x.csv'",
    "COPY (SELECT * FROM ecg_10s) TO '/tmp/x.parquet' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY ecg_10s FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/x'",
    "IMPORT DATABASE '/tmp/x'",
    "SELECT * FROM '/etc/passwd'",
    "FROM 'x.parquet'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM 'https://example.org/x.csv'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_parquet('*.parquet')",
    "SELECT * FROM parquet_scan('*.parquet')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_json_auto('/etc/passwd')",
    "SELECT * FROM read_ndjson('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT read_text('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT glob('/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('x')",
    "SELECT * FROM parquet_schema('x')",
    "SELECT * FROM parquet_file_metadata('x')",
    "SELECT * FROM parquet_kv_metadata('x')",
    "SELECT * FROM delta_scan('/x')",
    "SELECT * FROM iceberg_scan('/x')",
    "SELECT * FROM sqlite_scan('/x', 't')",
    "SELECT * FROM postgres_scan('host', 's', 't')",
    "SELECT * FROM mysql_query('db', 'SELECT 1')",
    "SELECT * FROM st_read('/x')",
    "SELECT * FROM read_xlsx('/x')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM seq_scan('x')",
    "SELECT parse_path('/etc/passwd')",
    "SELECT * FROM ecg_10s WHERE bed = (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT (SELECT count(*) FROM read_csv('/etc/passwd'))",
    "WITH a AS (SELECT * FROM read_csv('/etc/passwd')) SELECT * FROM a",
    "SELECT * FROM ecg_10s, read_csv('/etc/passwd')",
    "SELECT * FROM ecg_10s, LATERAL read_csv('/etc/passwd')",
    "SELECT 1 UNION SELECT * FROM read_csv('/etc/passwd')",
]
ENGINE = [
    "ATTACH ':memory:' AS x",
    "ATTACH '/tmp/x.db'",
    "DETACH x",
    "USE x",
    "INSTALL httpfs",
    "LOAD httpfs",
    "FORCE INSTALL httpfs FROM 'http://x'",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET threads = 64",
    "SET VARIABLE x = 1",
    "RESET ALL",
    "RESET threads",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "PRAGMA table_info('ecg_10s')",
    "CALL pragma_version()",
    "CALL duckdb_tables()",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT * FROM ecg_10s",
    "PREPARE q AS SELECT * FROM secret",
    "EXECUTE q",
    "DEALLOCATE q",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "DESCRIBE ecg_10s",
    "SUMMARIZE ecg_10s",
    "SUMMARIZE SELECT * FROM ecg_10s",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "BEGIN",
    "BEGIN TRANSACTION",
    "COMMIT",
    "ROLLBACK",
    "PIVOT ecg_10s ON bed USING avg(heart_rate)",
    "UNPIVOT ecg_10s ON heart_rate INTO NAME n VALUE v",
    "SELECT * FROM ecg_10s PIVOT (avg(heart_rate) FOR bed IN ('a'))",
    "VALUES (1)",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE ecg_10s",
    "SELECT 1;;; DELETE FROM ecg_10s",
    "SELECT 1 /* ; */; COPY ecg_10s TO 'x'",
    "",
    ";",
    "   ",
    "-- SELECT 1",
    "SELECT",
    "SELECT FROM WHERE",
    "SELEC 1",
    "SELECT * FROM",
    "SELECT (1",
    "SELECT 'unfinished",
    "SELECT $$ x",
    "\x00SELECT 1",
    "SELECT 1\x00; DROP TABLE x",
]
FUNCTIONS = [
    "SELECT * FROM query('SELECT * FROM secret')",
    "SELECT * FROM query_table('sec' || 'ret')",
    "SELECT query('SELECT 1')",
    "SELECT * FROM pragma_storage_info('ecg_10s')",
    "SELECT * FROM pragma_table_info('ecg_10s')",
    "SELECT * FROM pragma_database_size()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_tables()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_functions()",
    "SELECT * FROM duckdb_logs()",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM test_all_types()",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM repeat_row(1, num_rows = 1000000000)",
    "SELECT * FROM range(1000000000000)",
    "SELECT * FROM generate_series(1, 1000000000000)",
    "SELECT current_setting('allowed_paths')",
    "SELECT getenv('HOME')",
    "SELECT getvariable('x')",
    "SELECT version()",
    "SELECT current_user",
    "SELECT current_schema()",
    "SELECT current_database()",
    "SELECT current_schemas(true)",
    "SELECT current_query()",
    "SELECT txid_current()",
    "SELECT nextval('s')",
    "SELECT currval('s')",
    "SELECT pg_typeof(1)",
    "SELECT pg_get_viewdef(1)",
    "SELECT has_table_privilege('x', 'SELECT')",
    "SELECT in_search_path('a', 'b')",
    "SELECT add_parquet_key('a', 'b')",
    "SELECT which_secret('a', 'b')",
    "SELECT write_log('x')",
    "SELECT error('x')",
    "SELECT setseed(0.5)",
    "SELECT repeat('x', 1000000000)",
    "SELECT stats(bed) FROM ecg_10s",
    "SELECT alias(bed) FROM ecg_10s",
    "SELECT hash(bed) FROM ecg_10s",
    "SELECT json_execute_serialized_sql('{}')",
    "SELECT * FROM json_execute_serialized_sql('{}')",
    "SELECT json_serialize_sql('SELECT 1')",
    "SELECT * FROM sql_auto_complete('SEL')",
    "SELECT bed.upper() FROM ecg_10s",
    "SELECT 'x'.getenv()",
    "SELECT list_transform([1], x -> x)",
    "SELECT list_transform([1], x -> getenv('HOME'))",
    "SELECT [getenv(x) FOR x IN ['HOME']]",
    "SELECT list_reduce([1], (a, b) -> a)",
    "SELECT main.getenv('HOME')",
    "SELECT system.main.getenv('HOME')",
    "SELECT \"getenv\"('HOME')",
    "SELECT count(*) FILTER (WHERE getenv('HOME') = 'x') FROM ecg_10s",
    "SELECT * FROM ecg_10s ORDER BY getenv('HOME')",
    "SELECT * FROM ecg_10s LIMIT getvariable('x')",
    "SELECT * FROM ecg_10s WHERE bed = ANY (SELECT getenv('HOME'))",
    "SELECT sum(heart_rate) OVER (ORDER BY getenv('HOME')) FROM ecg_10s",
    "SELECT bed::getenv FROM ecg_10s",
    "SELECT 'ecg_10s'::regclass",
    "SELECT CAST('x' AS mood)",
    "SELECT 'x'::ENUM('a')",
    "SELECT CAST(bed AS STRUCT(a INT)) FROM ecg_10s",
    "SELECT $1",
    "SELECT ?",
    "SELECT #1 FROM ecg_10s",
    "SELECT COLUMNS('.*') FROM ecg_10s",
    "SELECT COLUMNS(c -> c LIKE '%') FROM ecg_10s",
    "SELECT MAP {'a': 1}",
    "SELECT * FROM ecg_10s AT (VERSION => 1)",
    "SELECT date_trunc('day''); DROP TABLE x; --', event_time) FROM ecg_10s",
]
HIDDEN = [
    "SELECT * FROM secret",
    "SELECT * FROM other.secret",
    "SELECT * FROM main.ecg_10s",
    "SELECT * FROM memory.main.ecg_10s_1",
    'SELECT * FROM "icu-west".ecg_10s',
    'SELECT * FROM "icu-west"."ecg_10s"',
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM information_schema.columns",
    "SELECT * FROM pg_catalog.pg_class",
    "SELECT * FROM pg_tables",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM duckdb_settings",
    "SELECT * FROM duckdb_views",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM source_0",
    "SELECT * FROM _source_0",
    "SELECT * FROM with_0",
    "SELECT * FROM _with_0",
    "SELECT * FROM sys",
    "SELECT * FROM __main__",
    "SELECT * FROM ecg_10s, secret",
    "SELECT * FROM ecg_10s JOIN secret USING (bed)",
    "SELECT (SELECT max(x) FROM secret) FROM ecg_10s",
    "SELECT * FROM ecg_10s WHERE bed IN (SELECT x FROM secret)",
    "SELECT * FROM ecg_10s UNION SELECT * FROM secret",
    "WITH a AS (SELECT * FROM secret) SELECT * FROM a",
    "WITH secret AS (SELECT * FROM secret) SELECT * FROM secret",
    "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a",
    "SELECT * FROM (WITH secret AS (SELECT 1 AS x) SELECT * FROM secret) AS a, secret",
    "SELECT * FROM (WITH duckdb_views AS (SELECT 1 AS x) SELECT * FROM duckdb_views) AS a, duckdb_views",
    "WITH a AS (WITH secret AS (SELECT 1) SELECT * FROM secret) SELECT * FROM a, secret",
    "SELECT * FROM secret WHERE EXISTS (WITH secret AS (SELECT 1) SELECT * FROM secret)",
    "SELECT * FROM ecg_10s ORDER BY (SELECT x FROM secret)",
    "SELECT sum(1) OVER (ORDER BY (SELECT x FROM secret)) FROM ecg_10s",
    "SELECT * FROM ecg_10s LIMIT (SELECT x FROM secret)",
    "SELECT * FROM ecg_10s QUALIFY row_number() OVER () = (SELECT x FROM secret)",
    "SELECT CASE WHEN true THEN (SELECT x FROM secret) END",
    "SELECT * FROM ecg_10s e JOIN lab l ON e.bed = (SELECT x FROM secret)",
    "SELECT * FROM ecg_10s, LATERAL (SELECT * FROM secret) s",
    "SELECT * FROM (secret)",
    "TABLE secret",
    "FROM secret",
]
HIDING = [
    "WITH ecg_10s AS (SELECT 1) SELECT * FROM ecg_10s",
    "WITH ECG_10S AS (SELECT 1) SELECT * FROM ecg_10s",
    "WITH ecg_10s_1 AS (SELECT 1) SELECT * FROM ecg_10s",
    "SELECT * FROM (WITH lab AS (SELECT 1) SELECT * FROM lab) AS x",
    "WITH RECURSIVE lab AS (SELECT 1 UNION ALL SELECT * FROM lab) SELECT * FROM lab",
]
HOSTILE = [*WRITING, *FILES, *ENGINE, *FUNCTIONS, *HIDDEN, *HIDING]


@pytest.mark.parametrize("sql", ALLOWED)
def test_reading_statements_pass(sql: str) -> None:
    assert set(check(sql, TABLES).reads) <= {"ecg_10s_1", "lab_2"}


@pytest.mark.parametrize("sql", ALLOWED)
def test_what_passed_passes_again_on_the_registered_names_and_reads_the_same(sql: str) -> None:
    once = check(sql, TABLES)
    registered = {shape.registered: shape for shape in TABLES.values()}
    again = check(once.sql, registered)
    assert again.reads.keys() == once.reads.keys()


def test_there_are_more_than_one_hundred_and_fifty_hostile_statements() -> None:
    assert len(set(HOSTILE)) >= 150


@pytest.mark.parametrize("sql", HOSTILE)
def test_hostile_statement_is_refused(sql: str) -> None:
    with pytest.raises((Invalid, NotFound)):
        check(sql, TABLES)


@pytest.mark.parametrize("sql", HIDDEN)
def test_table_out_of_reach_is_not_found(sql: str) -> None:
    with pytest.raises((NotFound, Invalid)) as refusal:
        check(sql, TABLES)
    assert "ecg_10s_1" not in refusal.value.message or "ecg_10s_1" in sql


@pytest.mark.parametrize("name", ["secret", "other.secret", "icu-west.ecg_10s"])
def test_table_of_another_project_reads_like_one_that_does_not_exist_and_keeps_the_name_as_written(name: str) -> None:
    written = ".".join(f'"{part}"' for part in name.split("."))
    with pytest.raises(NotFound, match=f"there is no table '{name}' in this project"):
        check(f"SELECT 1 FROM {written}", TABLES)  # noqa: S608  # the statement is what is tested


def test_names_are_bound_to_what_is_registered() -> None:
    assert check("SELECT e.bed, ecg_10s.bed FROM ecg_10s, lab e", TABLES).sql == (
        'SELECT "e"."bed", "ecg_10s"."bed" FROM "ecg_10s_1" AS "ecg_10s", "lab_2" AS "e"'
    )


def test_with_names_are_replaced_so_that_they_can_mean_nothing_else() -> None:
    checked = check("WITH duckdb_views AS (SELECT 1 AS x) SELECT x FROM duckdb_views", TABLES)
    assert checked.sql == 'WITH "_with_0" AS (SELECT 1 AS "x") SELECT "x" FROM "_with_0" AS "duckdb_views"'


def test_words_that_the_engine_would_call_as_functions_become_columns() -> None:
    assert check("SELECT user FROM ecg_10s", TABLES).sql == 'SELECT "user" FROM "ecg_10s_1" AS "ecg_10s"'


def test_comments_do_not_reach_the_engine() -> None:
    assert check("SELECT 1 /* secret */ -- secret", TABLES).sql == "SELECT 1"


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("SELECT bed FROM ecg_10s", {"bed"}),
        ("SELECT BED FROM ecg_10s", {"bed"}),
        ("SELECT count(*) FROM ecg_10s", set()),
        ("SELECT count(*) FROM ecg_10s WHERE heart_rate > 1 ORDER BY rmssd", {"heart_rate", "rmssd"}),
        ("SELECT * FROM ecg_10s", set(ECG.columns)),
        ("SELECT e.* FROM ecg_10s e", set(ECG.columns)),
        ("SELECT ecg_10s FROM ecg_10s", set(ECG.columns)),
        ("SELECT e FROM ecg_10s e", set(ECG.columns)),
        ("SELECT a FROM ecg_10s AS x(a, b)", set(ECG.columns)),
        ("SELECT 1 FROM ecg_10s NATURAL JOIN lab", set(ECG.columns)),
        ("SELECT 1 FROM ecg_10s JOIN lab USING (event_time)", {"event_time"}),
        ("SELECT count(bed) FROM ecg_10s", {"bed"}),
        ("SELECT 1 FROM ecg_10s WHERE 'heart_rate' = 'x'", set()),
    ],
)
def test_columns_that_may_be_read_are_known(sql: str, columns: set[str]) -> None:
    assert check(sql, TABLES).reads["ecg_10s_1"] == columns


def test_statement_without_tables_reads_nothing() -> None:
    assert check("SELECT 1", TABLES) == CheckedStatement("SELECT 1", {})


def test_statement_that_is_too_long_is_refused_by_its_length() -> None:
    with pytest.raises(LimitExceeded, match="at most 20000 characters, this one has 20001"):
        check("SELECT 1" + " " * (MAX_CHARACTERS - 7), TABLES)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 3000 + "1" + ")" * 3000,
        "SELECT " + "NOT " * 3000 + "true",
        "SELECT " + "- " * 3000 + "1",
        "SELECT " + "[" * 3000 + "]" * 3000,
        "SELECT * FROM " + "(SELECT * FROM " * 800 + "lab" + ")" * 800,
        "SELECT 1" + "::INT" * 3000,
        "SELECT " + "CASE WHEN " * 900 + "1" + " THEN 1 END" * 900,
        "WITH a AS (" * 900 + "SELECT 1" + ") SELECT 1" * 900,
    ],
)
def test_deep_nesting_is_a_clear_error(sql: str) -> None:
    with pytest.raises(WardstreamError) as refusal:
        check(sql[:MAX_CHARACTERS], TABLES)
    assert isinstance(refusal.value, LimitExceeded | Invalid)


def test_longest_list_of_values_is_checked_in_a_moment() -> None:
    started = time.monotonic()
    check("SELECT " + ",".join("1" for _ in range(9_990)), TABLES)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT mean(heart_rate) FROM ecg_10s", "use avg"),
        ("SELECT now()", "use current_timestamp"),
        ("SELECT getenv('HOME')", "function 'getenv' is not allowed"),
        ("SELECT * FROM read_csv('x')", "cannot stand after FROM"),
        ("FROM 'x.parquet'", "no files or addresses"),
        ("COPY lab TO 'x'", "only SELECT is allowed here, not COPY"),
        ("EXPLAIN SELECT 1", "not 'EXPLAIN'"),
        ("SELECT 1; SELECT 2", "2 statements were sent"),
        ("SELECT bed\nFORM ecg_10s WHERE", "line 2"),
        ("SELECT $1", "parameters are not bound"),
        ("WITH lab AS (SELECT 1) SELECT * FROM lab", "may not hide a table"),
    ],
)
def test_refusals_say_what_would_be_right(sql: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        check(sql, TABLES)


def test_refusal_does_not_repeat_literals() -> None:
    with pytest.raises(Invalid) as refusal:
        check("SELECT * FROM ecg_10s WHERE bed = '19121212-1212' AND mean(1) FORM", TABLES)
    assert "19121212" not in refusal.value.message
