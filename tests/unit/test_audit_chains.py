"""Chains of access entries: what is written is found, what is meddled with is found too."""

import hashlib
import os
import random
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tenancy.access import AccessEvent, AccessJournal, found_in
from tenancy.authorizer_log import counted, decision_of, lines_since
from tests.support.journals import journal
from wardstream.audit_export import FORMAT, heads_of, statement, verify_export
from wardstream.chain import ChainHead, check, hidden, newest_lines, read_lines
from wardstream.errors import Conflict, Invalid, Unavailable


def event(number: int = 0, *, allowed: bool = True, dataset: str = "vitals_1") -> AccessEvent:
    return AccessEvent("icu__anna", "rows", "row.read", "icu", dataset, allowed=allowed, request=f"request-{number}")


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[AccessJournal]:
    made = journal(tmp_path / "chain")
    yield made
    made.close()


def test_entries_are_on_the_disk_when_record_returns_and_a_restart_goes_on(tmp_path: Path) -> None:
    first = journal(tmp_path / "chain")
    first.record(event(1), event(2))
    assert check(read_lines(first.folder)).head == first.head == ChainHead(2, first.head.seal)
    first.close()
    again = journal(tmp_path / "chain")
    assert again.head == ChainHead(2, first.head.seal)
    again.record(event(3))
    found = check(read_lines(again.folder), [ChainHead(2, first.head.seal)])
    again.close()
    assert (found.entries, found.intact) == (3, True)


def test_a_line_that_a_crash_cut_is_dropped_and_its_number_given_again(tmp_path: Path) -> None:
    first = journal(tmp_path / "chain")
    first.record(event(1))
    first.close()
    (file,) = (tmp_path / "chain").glob("*.log")
    with file.open("ab") as torn:
        torn.write(b'{"n":2,"at":"2026')
    again = journal(tmp_path / "chain")
    again.record(event(2))
    found = check(read_lines(again.folder))
    again.close()
    assert (found.entries, found.intact) == (2, True)


def test_two_processes_cannot_write_one_chain(chain: AccessJournal) -> None:
    with pytest.raises(Conflict, match="another process"):
        journal(chain.folder)


def test_nothing_is_given_out_while_entries_cannot_be_kept_and_then_it_goes_on(chain: AccessJournal) -> None:
    chain.record(event(1))
    kept = chain._file
    chain._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(Unavailable, match="cannot be audited"):
        chain.record(event(2))
    os.close(chain._file)
    chain._file = kept
    chain.record(event(3))
    assert [entry["request"] for entry in found_in(chain.folder, {})] == ["request-3", "request-1"]
    assert check(read_lines(chain.folder)).intact


def test_threads_share_writes_and_every_entry_is_there_once(chain: AccessJournal) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: chain.record(event(number)), range(400)))
    found = [entry["request"] for entry in found_in(chain.folder, {"limit": 1000})]
    assert sorted(found) == sorted(f"request-{number}" for number in range(400))
    assert check(read_lines(chain.folder)).entries == 400


def lines_of(count: int, folder: Path) -> tuple[list[bytes], ChainHead]:
    made = journal(folder)
    made.record(*(event(number) for number in range(count)))
    lines, head = list(read_lines(folder)), made.head
    made.close()
    return lines, head


def test_any_byte_that_is_changed_is_found(tmp_path: Path) -> None:
    lines, head = lines_of(1000, tmp_path / "chain")
    assert check(lines, [head]).intact
    rng = random.Random(7)
    whole = b"".join(lines)
    for _ in range(300):
        place = rng.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= rng.randrange(1, 256)
        assert not check(bytes(changed).splitlines(keepends=True), [head]).intact, place


def test_a_line_removed_swapped_added_or_cut_off_is_found(tmp_path: Path) -> None:
    lines, head = lines_of(50, tmp_path / "chain")
    for place in range(50):
        assert not check(lines[:place] + lines[place + 1 :], [head]).intact
        assert not check([*lines[:place], lines[place], *lines[place:]], [head]).intact
    for place in range(49):
        swapped = [*lines[:place], lines[place + 1], lines[place], *lines[place + 2 :]]
        assert check(swapped, [head]).broken_at == place + 1
    # A tail that is gone is found by the head that was signed, and by nothing else.
    assert check(lines[:-1]).intact
    assert check(lines[:-1], [head]).broken_at == 50


def test_a_chain_made_anew_is_found_by_a_head_that_was_signed_before(tmp_path: Path) -> None:
    lines, head = lines_of(10, tmp_path / "one")
    forged, _ = lines_of(10, tmp_path / "two")
    assert check(forged).intact
    assert not check(forged, [head]).intact
    assert check(lines, [head]).intact


def test_a_part_of_a_chain_is_checked_with_commitments_for_the_rest(tmp_path: Path) -> None:
    lines, head = lines_of(20, tmp_path / "chain")
    part = [line if number % 3 == 0 else hidden(line) for number, line in enumerate(lines)]
    assert check(part, [head]).intact
    assert not any(b"icu" in line for number, line in enumerate(part) if number % 3)
    assert not check([*part[:4], part[5], part[4], *part[6:]], [head]).intact
    # The same entry twice has two commitments: nobody can guess what a commitment stands for.
    assert hidden(lines[1]) != hidden(lines[2])


def test_checkpoints_that_are_edited_removed_or_forged_are_found() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    lines: list[bytes] = []
    for number in range(1, 6):
        before = hashlib.sha256(lines[-1]).hexdigest() if lines else ""
        content = {"n": number, "at": "t", "heads": {"query": [number, "a" * 64]}, "previous": before}
        lines.append(orjson.dumps({**content, "signature": b64encode(key.sign(orjson.dumps(content))).decode()}))
    public = key.public_key()
    heads, intact = heads_of(lines, public)
    assert intact
    assert [head.number for head in heads["query"]] == [1, 2, 3, 4, 5]
    assert not heads_of(lines, other.public_key())[1]
    assert not heads_of([*lines[:2], *lines[3:]], public)[1]
    assert not heads_of([*lines[:2], lines[2].replace(b'"n":3', b'"n":4'), *lines[3:]], public)[1]


# The broker's log


def line(principal: str, decision: str, operation: str, resource: str, minute: str = "2026-11-25T07:57") -> bytes:
    message = (
        f"Principal = User:{principal} is {decision} operation = {operation} from host = 127.0.0.1 on resource = {resource} "
        "for request = Fetch with resourceRefCount = 1 based on rule DefaultDeny"
    )
    return orjson.dumps({"time": f"{minute}:39.174+00:00", "message": message}) + b"\n"


def test_decisions_of_the_broker_are_counted_by_principal_resource_operation_and_minute() -> None:
    lines = [
        *[line("icu__anna", "Allowed", "READ", "Topic:LITERAL:icu.vitals")] * 3,
        line("icu__anna", "Denied", "READ", "Topic:LITERAL:lab.blood"),
        line("icu__anna", "Denied", "READ", "Group:LITERAL:x"),
        line("ws-query", "Allowed", "READ", "Topic:LITERAL:_schemas"),
        b"nothing of the kind\n",
    ]
    found = counted(each for text in lines if (each := decision_of(text)) is not None)
    told = [(e.project, e.dataset, e.action, e.allowed, e.more["count"]) for e in found]
    assert sorted(told, key=str) == [
        ("icu", "vitals", "topic.read", True, 3),
        ("icu", None, "group.read", False, 1),
        ("lab", "blood", "topic.read", False, 1),
    ]


def test_lines_are_read_once_over_restarts_and_rolled_files(tmp_path: Path) -> None:
    log = tmp_path / "kafka-authorizer.log"
    log.write_bytes(b"one\ntwo\nthr")
    first = list(lines_since(log, None))
    assert [text for _, text in first] == [b"one\n", b"two\n"]
    with log.open("ab") as file:
        file.write(b"ee\n")
    time.sleep(0.01)
    log.rename(tmp_path / "kafka-authorizer.log.1")
    log.write_bytes(b"four\n")
    after = list(lines_since(log, first[-1][0]))
    assert [text for _, text in after] == [b"three\n", b"four\n"]
    assert list(lines_since(log, after[-1][0])) == []


def test_newest_lines_come_from_all_files_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardstream.chain._BLOCK", 700)
    lines, _ = lines_of(40, tmp_path / "chain")
    assert list(newest_lines(tmp_path / "chain")) == lines[::-1]


def test_a_name_that_a_client_made_up_is_not_kept() -> None:
    found = counted([each for each in [decision_of(line("icu__anna", "Denied", "READ", "Group:LITERAL:Maria Muster 4711"))] if each])
    assert "Muster" not in str(found[0].document())


def test_a_new_file_with_an_old_inode_is_read_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "kafka-authorizer.log"
    log.write_bytes(b"one\ntwo\nthree\n")
    place = list(lines_since(log, None))[-1][0]
    log.write_bytes(b"four\nfive\n")
    assert [text for _, text in lines_since(log, place)] == [b"four\n", b"five\n"]


def export_of(chains: dict[str, list[bytes]], heads: dict[str, ChainHead], key: Ed25519PrivateKey, file: Path) -> list[bytes]:
    content = {"n": 1, "at": "t", "heads": {name: [head.number, head.seal] for name, head in heads.items()}, "previous": ""}
    checkpoint = orjson.dumps({**content, "signature": b64encode(key.sign(orjson.dumps(content))).decode()})
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    lines = [orjson.dumps({"format": FORMAT, "project": "icu", "public_key": public, "chains": list(chains)}) + b"\n"]
    for name, found in chains.items():
        lines += [orjson.dumps({"chain": name}) + b"\n", *found]
    lines += [orjson.dumps({"checkpoints": 1}) + b"\n", checkpoint + b"\n"]
    lines.append(statement(key, "icu", list(chains), len(lines), hashlib.sha256(b"".join(lines)).hexdigest()))
    file.write_bytes(b"".join(lines))
    return lines


def test_any_line_of_an_export_removed_edited_moved_or_cut_off_is_found(tmp_path: Path) -> None:
    key, file = Ed25519PrivateKey.generate(), tmp_path / "export"
    query, head = lines_of(5, tmp_path / "query")
    other, other_head = lines_of(4, tmp_path / "other")
    lines = export_of({"gateway": other, "query": query}, {"gateway": other_head, "query": head}, key, file)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert verify_export(file, public).intact

    def intact(changed: list[bytes]) -> bool:
        file.write_bytes(b"".join(changed))
        try:
            return verify_export(file, public).intact
        except Invalid:
            return False

    for place in range(len(lines)):
        assert not intact(lines[:place] + lines[place + 1 :]), place
        assert not intact(lines[: place + 1]) or place == len(lines) - 1
        assert not intact([*lines[:place], lines[place].replace(b"i", b"j", 1), *lines[place + 1 :]]) or b"i" not in lines[place]
    assert not intact([*lines, b"more\n"])
    # A chain taken out of header, section and signature by somebody who cannot sign, and by somebody who can but has the checkpoints.
    forged = export_of({"query": query}, {"gateway": other_head, "query": head}, key, file)
    assert not intact(forged)


def test_reading_goes_on_while_entries_come(chain: AccessJournal) -> None:
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            chain.record(event())

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(check(read_lines(chain.folder)).intact for _ in range(20))
    finally:
        stop.set()
        writer.join()
