from __future__ import annotations

from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from imgateway.core.dedup import BLOCKS, DIGEST_BYTES, Dedup, digest, keyed
from imgateway.frames import log_of, parse_address

LOG = log_of(parse_address("user:bob"))


def test_a_digest_tells_everything_apart() -> None:
    scopes = [
        (keyed(b"k"), LOG, "", "alice", "phone", "1"),
        (keyed(b"j"), LOG, "", "alice", "phone", "1"),
        (keyed(b"k"), log_of(parse_address("service:bob")), "", "alice", "phone", "1"),
        (keyed(b"k"), log_of(parse_address("user:carol")), "", "alice", "phone", "1"),
        (keyed(b"k"), LOG, "phone", "alice", "phone", "1"),
        (keyed(b"k"), LOG, "", "alic", "phone", "1"),
        (keyed(b"k"), LOG, "", "alice", "web", "1"),
        (keyed(b"k"), LOG, "", "alice", "phone", "2"),
    ]
    digests = [digest(*scope) for scope in scopes]
    assert len(set(digests)) == len(scopes)
    assert {len(one) for one in digests} == {DIGEST_BYTES}
    assert digest(*scopes[0]) == digests[0]
    assert digest(keyed(b""), LOG, "", "a", "b", "\ud800")  # never raises for content


def test_a_digest_stays_what_stores_have_of_it() -> None:
    text = b"user\0bob\0\0alice\0phone\x001"
    assert (
        digest(keyed(b"k"), LOG, "", "alice", "phone", "1") == blake2b(text, digest_size=8, key=b"k").digest()
    )


def name(n: int) -> bytes:
    return n.to_bytes(8, "big")


def test_a_longer_digest_needs_no_key() -> None:
    log = log_of(parse_address("user:bob"))
    long = digest(keyed(b"", 16), log, "", "alice", "phone", "1")
    assert len(long) == 16
    assert long != digest(keyed(b"", 16), log, "", "alice", "phone", "2")


def test_pending_settled_dropped() -> None:
    table: Dedup[str] = Dedup(10, 1000)
    assert table.get(name(1)) is None
    table.expect(name(1), "append")
    assert table.get(name(1)) == "append"
    table.settle(name(1), 7, 0)
    assert table.get(name(1)) == 7
    table.expect(name(2), "append")
    table.drop(name(2))
    table.drop(name(3))
    assert table.get(name(2)) is None


@given(st.integers(1, 300), st.integers(1, 1000))
def test_the_newest_stay(limit: int, count: int) -> None:
    table: Dedup[str] = Dedup(limit, 10**9)
    table.load((name(n), n, 0) for n in range(count))
    table.expect(name(5000), "pending")
    kept = [n for n in range(count) if table.get(name(n)) is not None]
    assert kept == list(range(count))[-len(kept) :]
    assert len(kept) <= limit + limit // 64 + 1
    assert len(kept) >= min(count, limit - limit // 64 - 1)


@given(st.lists(st.integers(0, 500), max_size=60))
def test_lifetime(waits: list[int]) -> None:
    table: Dedup[str] = Dedup(1000, 6400)
    now, born = 0, {}
    for n, wait in enumerate(waits):
        now += wait
        table.expire(now)
        table.settle(name(n), n, now)
        born[n] = now
        for old, when in born.items():
            if now - when <= 6400:
                assert table.get(name(old)) == old
    table.expire(now + 6400 + 101)
    table.expire(now + 6400 + 102)
    assert len(table) == 0


def test_an_append_under_way_is_not_forgotten() -> None:
    table: Dedup[str] = Dedup(1, 10)
    table.settle(name(1), 1, 0)
    table.drop(name(1))
    table.expect(name(1), "again")
    for n in range(2, 5):
        table.settle(name(n), n, 1)
    assert table.get(name(1)) == "again"


@given(st.integers(1, 300), st.lists(st.integers(0, 400), max_size=8))
def test_of_whole_commits_the_newest_stay(limit: int, sizes: list[int]) -> None:
    """However large a commit is, no more is forgotten than one by one, but for a block."""
    table: Dedup[str] = Dedup(limit, 10**9)
    count = 0
    for size in sizes:
        commit = range(count, count + size)
        table.settle_all([name(n) for n in commit], commit, 0)
        count += size
    kept = [n for n in range(count) if table.get(name(n)) is not None]
    assert kept == list(range(count))[len(range(count)) - len(kept) :]
    assert len(kept) >= min(count, limit - 2 * max(1, limit // BLOCKS))
    assert len(table) <= limit + 2 * max(1, limit // BLOCKS)


def test_what_a_commit_settles_is_forgotten_in_time() -> None:
    table: Dedup[str] = Dedup(1000, 640)
    table.settle_all([name(1), name(2)], [1, 2], 1_000)
    table.settle_all([], [], 1_010)
    table.settle_all([name(3)], [3], 1_020)
    assert [table.get(name(n)) for n in (1, 2, 3)] == [1, 2, 3]
    table.expire(1_000 + 640 + 11)
    assert [table.get(name(n)) for n in (1, 2, 3)] == [None, None, 3]
