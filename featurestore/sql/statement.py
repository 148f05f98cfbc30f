"""The gate in front of the engine: which statements run at all, and in which words.

Pure. A statement passes when it is exactly one SELECT (or a set operation of SELECTs), made only of the node types
and functions listed here, reading only tables that the caller may read. What runs is the text rendered again from
the checked tree, with every table replaced by the name under which it is registered and every identifier quoted:
what was checked is what runs. The gate is one of three layers; behind it stand an engine without paths and a
confined process (`engine.py`, `child.py`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from wardstream.errors import Invalid, LimitExceeded, NotFound

# sqlglot logs the statements it does not understand, with their literals; those may be a patient's.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

# Bounds the gate at about 0.2 s: the number of nodes is at most that of characters, and all passes are linear.
MAX_CHARACTERS = 20_000

_ROOTS = (exp.Select, exp.Union, exp.Intersect, exp.Except)

# Exact classes, not their subclasses: a new kind of node in a later sqlglot is refused until somebody lists it.
_SHAPES: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Select,
        exp.Union,
        exp.Intersect,
        exp.Except,
        exp.Subquery,
        exp.With,
        exp.CTE,
        exp.From,
        exp.Join,
        exp.Where,
        exp.Group,
        exp.Cube,
        exp.Rollup,
        exp.GroupingSets,
        exp.Having,
        exp.Qualify,
        exp.Order,
        exp.Ordered,
        exp.WithinGroup,
        exp.Limit,
        exp.LimitOptions,
        exp.Offset,
        exp.Distinct,
        exp.Table,
        exp.TableAlias,
        exp.TableSample,
        exp.Lateral,
        exp.Values,
        exp.Unnest,
        exp.Alias,
        exp.Identifier,
        exp.Column,
        exp.Dot,
        exp.Star,
        exp.Literal,
        exp.Null,
        exp.Boolean,
        exp.Var,
        exp.Paren,
        exp.Tuple,
        exp.Window,
        exp.WindowSpec,
        exp.Filter,
        exp.IgnoreNulls,
        exp.RespectNulls,
        exp.Interval,
        exp.DataType,
        exp.DataTypeParam,
        exp.Bracket,
        exp.Slice,
        exp.Array,
        exp.Struct,
        exp.PropertyEQ,
        exp.AtTimeZone,
        # operators
        exp.And,
        exp.Or,
        exp.Xor,
        exp.Not,
        exp.Neg,
        exp.Add,
        exp.Sub,
        exp.Mul,
        exp.Div,
        exp.IntDiv,
        exp.Mod,
        exp.DPipe,
        exp.EQ,
        exp.NEQ,
        exp.NullSafeEQ,
        exp.NullSafeNEQ,
        exp.GT,
        exp.GTE,
        exp.LT,
        exp.LTE,
        exp.Is,
        exp.In,
        exp.Between,
        exp.Like,
        exp.ILike,
        exp.SimilarTo,
        exp.Escape,
        exp.Any,
        exp.All,
        exp.Exists,
        exp.BitwiseAnd,
        exp.BitwiseOr,
        exp.BitwiseXor,
        exp.BitwiseLeftShift,
        exp.BitwiseRightShift,
        exp.Case,
        exp.If,
        exp.Cast,
        exp.TryCast,
    }
)

# By class, because a class has many names: date_trunc, for one, becomes TimestampTrunc.
_FUNCTIONS: frozenset[type[exp.Expr]] = frozenset(
    {
        # aggregates
        exp.Count,
        exp.CountIf,
        exp.Sum,
        exp.Avg,
        exp.Min,
        exp.Max,
        exp.Median,
        exp.Mode,
        exp.Stddev,
        exp.StddevSamp,
        exp.StddevPop,
        exp.Variance,
        exp.VariancePop,
        exp.Corr,
        exp.CovarSamp,
        exp.CovarPop,
        exp.RegrSlope,
        exp.RegrIntercept,
        exp.RegrR2,
        exp.Skewness,
        exp.Kurtosis,
        exp.Quantile,
        exp.PercentileCont,
        exp.PercentileDisc,
        exp.ApproxQuantile,
        exp.ApproxDistinct,
        exp.LogicalAnd,
        exp.LogicalOr,
        exp.ArgMin,
        exp.ArgMax,
        exp.First,
        exp.Last,
        exp.AnyValue,
        exp.ArrayAgg,
        exp.GroupConcat,
        # windows
        exp.RowNumber,
        exp.Rank,
        exp.DenseRank,
        exp.PercentRank,
        exp.CumeDist,
        exp.Ntile,
        exp.Lag,
        exp.Lead,
        exp.FirstValue,
        exp.LastValue,
        exp.NthValue,
        # numbers
        exp.Abs,
        exp.Ceil,
        exp.Floor,
        exp.Round,
        exp.Trunc,
        exp.Sqrt,
        exp.Cbrt,
        exp.Exp,
        exp.Ln,
        exp.Log,
        exp.Pow,
        exp.Sign,
        exp.Sin,
        exp.Cos,
        exp.Tan,
        exp.Asin,
        exp.Acos,
        exp.Atan,
        exp.Atan2,
        exp.Pi,
        exp.Degrees,
        exp.Radians,
        exp.Greatest,
        exp.Least,
        exp.IsNan,
        exp.IsInf,
        exp.Rand,
        # nulls
        exp.Coalesce,
        exp.Nullif,
        # text
        exp.Lower,
        exp.Upper,
        exp.Length,
        exp.Trim,
        exp.Substring,
        exp.Left,
        exp.Right,
        exp.Concat,
        exp.ConcatWs,
        exp.Replace,
        exp.SplitPart,
        exp.Contains,
        exp.StartsWith,
        exp.EndsWith,
        exp.StrPosition,
        exp.RegexpLike,
        exp.RegexpExtract,
        exp.RegexpReplace,
        exp.RegexpFullMatch,
        # times
        exp.TimestampTrunc,
        exp.DateTrunc,
        exp.Extract,
        exp.DateDiff,
        exp.DateAdd,
        exp.DateSub,
        exp.DateBin,
        exp.TimeToUnix,
        exp.UnixToTime,
        exp.TimeToStr,
        exp.StrToTime,
        exp.DateFromParts,
        exp.CurrentTimestamp,
        exp.CurrentDate,
        exp.Date,
        exp.Year,
        exp.Quarter,
        exp.Month,
        exp.Week,
        exp.WeekOfYear,
        exp.Day,
        exp.DayOfWeek,
        exp.DayOfWeekIso,
        exp.DayOfYear,
        exp.Hour,
        exp.Minute,
        exp.Second,
        exp.ToDays,
        exp.LastDay,
        # lists
        exp.ArraySize,
        exp.ArrayContains,
        exp.ArraySort,
        exp.Explode,
        exp.Typeof,
    }
)
_ALLOWED = _SHAPES | _FUNCTIONS

_T = exp.DataType.Type
_TYPES = frozenset(
    {
        *(_T.BOOLEAN, _T.TINYINT, _T.SMALLINT, _T.INT, _T.BIGINT, _T.INT128, _T.UTINYINT, _T.USMALLINT, _T.UINT, _T.UBIGINT),
        *(_T.FLOAT, _T.DOUBLE, _T.DECIMAL, _T.VARCHAR, _T.TEXT, _T.CHAR, _T.ARRAY, _T.LIST),
        *(_T.DATE, _T.TIME, _T.TIMESTAMP, _T.TIMESTAMPTZ, _T.TIMESTAMPNTZ, _T.TIMESTAMP_S, _T.TIMESTAMP_MS, _T.TIMESTAMP_NS, _T.INTERVAL),
    }
)

# Clauses of a FROM entry and of a SELECT that our tables know; sqlglot keeps other dialects' clauses as plain text here.
_TABLE_PARTS = frozenset({"this", "alias", "joins", "laterals", "sample", "db", "catalog"})
_SELECT_PARTS = frozenset(
    {"with_", "expressions", "distinct", "from_", "operation_modifiers", "joins", "laterals", "sample"}
    | {"where", "group", "having", "qualify", "windows", "order", "limit", "offset"}
)
_WITH_PARTS = frozenset({"expressions", "recursive"})

_NUMBER = re.compile(r"[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[A-Za-z_]{1,30}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_INSTEAD = {
    "mean": "avg",
    "now": "current_timestamp",
    "date_part": "extract(... from ...)",
    "datepart": "extract(... from ...)",
    "len": "length",
    "strlen": "length",
    "iff": "case when",
    "to_hours": "interval",
    "to_minutes": "interval",
    "to_seconds": "interval",
    "dow": "dayofweek",
    "weekday": "dayofweek",
}


@dataclass(frozen=True)
class TableShape:
    """A table that the caller may read: the name it is registered under, and its columns."""

    registered: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class CheckedStatement:
    """A statement that may run.

    `reads` names every registered table it touches with the columns it may touch; a column that is not
    among them cannot occur in the result, while one that is may turn out not to be read.
    """

    sql: str
    reads: Mapping[str, frozenset[str]]


def check(sql: str, tables: Mapping[str, TableShape]) -> CheckedStatement:
    """Return the statement to run instead of `sql`, and what it reads of `tables` (names in lower case).

    Raises `Invalid` for anything but one SELECT made of allowed parts, `NotFound` for a table that is not among
    `tables` (with the name as written), `LimitExceeded` for a statement too long or too deep to check.
    """
    tree = _parsed(sql)
    try:
        _check_nodes(tree)
        return _bound(tree, tables)
    except RecursionError as error:
        raise _too_deep() from error


def _parsed(sql: str) -> exp.Expr:
    if len(sql) > MAX_CHARACTERS:
        raise LimitExceeded(f"a statement has at most {MAX_CHARACTERS} characters, this one has {len(sql)}")
    if "\x00" in sql:
        raise Invalid("a statement is text without zero bytes")
    try:
        statements = [tree for tree in sqlglot.parse(sql, read="duckdb") if tree is not None and not isinstance(tree, exp.Semicolon)]
    except RecursionError as error:
        raise _too_deep() from error
    except SqlglotError as error:
        raise Invalid(f"the statement cannot be read{_place(error)}: one SELECT in DuckDB's dialect is expected") from error
    except Exception as error:  # a parser of foreign text: whatever it trips over is the text's fault
        raise Invalid("the statement cannot be read: one SELECT in DuckDB's dialect is expected") from error
    if not statements:
        raise Invalid("the statement is empty: one SELECT is expected")
    if len(statements) > 1:
        raise Invalid(f"{len(statements)} statements were sent: exactly one SELECT is allowed")
    tree = statements[0]
    if not isinstance(tree, _ROOTS):
        raise Invalid(f"only SELECT is allowed here, not {_kind(tree)}: tables change through inserts into their feature group alone")
    return tree


def _check_nodes(tree: exp.Expr) -> None:
    for node in tree.walk():
        kind = type(node)
        if kind not in _ALLOWED:
            raise _refused(node)
        if kind is exp.Table:
            _check_parts(node, _TABLE_PARTS, "FROM")
            # A function or a piece of text in the place of a table reads what no list of tables shows.
            if not isinstance(node.this, exp.Identifier):
                name = node.this.name if isinstance(node.this, exp.Anonymous) else type(node.this).__name__
                raise Invalid(f"{_shown(name)}(...) cannot stand after FROM: only names of feature groups can")
        elif kind is exp.Select:
            _check_parts(node, _SELECT_PARTS, "SELECT")
            if not node.expressions:
                raise Invalid("SELECT names no columns: write the columns to read, or *")
        elif kind is exp.With:
            _check_parts(node, _WITH_PARTS, "WITH")
        # These three are rendered as they are, without quotes.
        elif kind is exp.Var and not _WORD.fullmatch(node.name):
            raise Invalid("a unit or keyword in the statement is not a plain word")
        elif kind is exp.Literal and not node.is_string and not (_NUMBER.fullmatch(node.name) and any(c.isdigit() for c in node.name)):
            raise Invalid("a number in the statement is not written as digits with an optional point and exponent")
        elif kind is exp.DataType and (not isinstance(node.this, exp.DataType.Type) or node.this not in _TYPES or node.args.get("kind")):
            raise Invalid("this type cannot be cast to: use integer, double, decimal, varchar, boolean, date, timestamp or interval types")


def _check_parts(node: exp.Expr, allowed: frozenset[str], clause: str) -> None:
    for part, value in node.args.items():
        if value and part not in allowed:
            raise Invalid(f"{part.strip('_').replace('_', ' ').upper()} is not allowed in {clause}")


def _bound(tree: exp.Expr, tables: Mapping[str, TableShape]) -> CheckedStatement:
    hidden = {cte.alias_or_name.lower() for cte in tree.find_all(exp.CTE)} & tables.keys()
    if hidden:
        raise Invalid(f"a WITH name may not hide a table: choose another name than {', '.join(sorted(hidden))}")
    # Decide for all tables first and rename afterwards: scopes are told apart by the names as written.
    plain = list(tree.find_all(exp.Table))
    decided = [(table, _cte_of(table), _shape_of(table, tables) if _cte_of(table) is None else None) for table in plain]
    # A name that no feature group can have: theirs begin with a letter.
    renamed = {id(cte): f"_with_{number}" for number, cte in enumerate(tree.find_all(exp.CTE))}
    names = {node.name.lower() for node in tree.find_all(exp.Identifier)}
    everything = _reads_all_columns(tree)
    reads: dict[str, frozenset[str]] = {}
    for table, cte, shape in decided:
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
        if shape is not None:
            reads[shape.registered] = frozenset(column for column in shape.columns if everything or column.lower() in names)
            table.set("this", exp.to_identifier(shape.registered))
        elif cte is not None:
            table.set("this", exp.to_identifier(renamed[id(cte)]))
    for cte in tree.find_all(exp.CTE):
        cte.args["alias"].set("this", exp.to_identifier(renamed[id(cte)]))
    return CheckedStatement(tree.sql("duckdb", identify=True, comments=False), reads)


def _shape_of(table: exp.Table, tables: Mapping[str, TableShape]) -> TableShape:
    written = ".".join(part.name for part in table.parts)
    if table.args.get("db") or table.args.get("catalog"):
        raise NotFound(f"there is no table {_shown(written)} in this project; tables are named without a prefix")
    shape = tables.get(table.name.lower())
    if shape is None:
        if not _PLAIN.fullmatch(table.name):
            raise Invalid(f"{_shown(written)} cannot be read: only names of feature groups can stand after FROM, no files or addresses")
        raise NotFound(f"there is no table {_shown(written)} in this project")
    return shape


def _cte_of(table: exp.Table) -> exp.CTE | None:
    """Return the WITH entry that the name means where it stands, as the engine's scopes have it, or None for a table."""
    if table.args.get("db") or table.args.get("catalog"):
        return None
    name, node = table.name.lower(), table.parent
    came_from: exp.Expr | None = table
    while node is not None:
        if isinstance(node, exp.With):
            # Inside a definition the earlier ones are visible, and in WITH RECURSIVE the definition itself.
            entries = node.expressions
            position = next(number for number, entry in enumerate(entries) if entry is came_from)
            visible = entries[: position + 1] if node.args.get("recursive") else entries[:position]
        else:
            own = node.args.get("with_")
            visible = own.expressions if own is not None and own is not came_from else []
        for cte in reversed(visible):
            if cte.alias_or_name.lower() == name:
                return cte  # type: ignore[no-any-return]  # an entry of WITH
        came_from, node = node, node.parent
        if isinstance(came_from, exp.With):
            # The statement that owns this WITH shows its entries to its body, not to their definitions.
            came_from, node = node, node.parent if node is not None else None
    return None


def _reads_all_columns(tree: exp.Expr) -> bool:
    """Return whether columns may be read without being named."""
    sources: set[str] = set()
    for table in tree.find_all(exp.Table):
        sources |= {table.name.lower(), table.alias.lower()}
        if table.args.get("alias") is not None and table.args["alias"].columns:
            return True  # AS t(a, b) renames columns by position
    if any(isinstance(star.parent, exp.Count) is False for star in tree.find_all(exp.Star)):
        return True
    if any(join.args.get("method") in {"NATURAL", "POSITIONAL"} for join in tree.find_all(exp.Join)):
        return True
    # A table's name as a value is a structure of all its columns.
    return any(not column.table and column.name.lower() in sources for column in tree.find_all(exp.Column))


def _refused(node: exp.Expr) -> Invalid:
    if isinstance(node, exp.Anonymous):
        instead = _INSTEAD.get(node.name.lower())
        return Invalid(f"function {_shown(node.name)} is not allowed{f'; use {instead}' if instead else ''}")
    if isinstance(node, exp.Placeholder | exp.Parameter | exp.SessionParameter):
        return Invalid("parameters are not bound here: write the values into the statement")
    if isinstance(node, exp.Func):
        return Invalid(f"function {_shown(node.sql_name().lower())} is not allowed")
    return Invalid(f"{_kind(node)} is not allowed in a statement: one SELECT that reads feature groups is")


def _kind(node: exp.Expr) -> str:
    if isinstance(node, exp.Command):
        return _shown(str(node.this).upper())
    words: Iterator[str] = (match.upper() for match in re.findall(r"[A-Z][a-z0-9]*", type(node).__name__))
    return " ".join(words)


def _place(error: SqlglotError) -> str:
    faults = getattr(error, "errors", None) or [{}]
    line, column = faults[0].get("line"), faults[0].get("col")
    return f" at line {line}, column {column}" if line and column else ""


def _too_deep() -> LimitExceeded:
    return LimitExceeded("the statement is nested too deeply to check: write it with fewer levels of brackets and subqueries")


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 100 else text[:97] + "...")
