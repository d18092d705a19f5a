"""Sessions by user, of whom most have one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from imgateway.core.roster import Roster
from imgateway.core.session import Session
from imgateway.frames import SessionKey


def session(user: str, device: str) -> Session:
    return Session(SessionKey(user, device), 1, None, 1, 0, 0)


def test_one_session_of_a_user() -> None:
    roster = Roster()
    phone = session("bob", "phone")
    assert roster.add(phone) is None
    assert (roster.of("bob"), roster.of("alice")) == ((phone,), ())
    assert roster.get(SessionKey("bob", "phone")) is phone
    assert roster.get(SessionKey("bob", "web")) is None
    assert (roster.has(phone), roster.has(session("bob", "phone"))) == (True, False)
    roster.remove(phone)
    assert (len(roster), roster.of("bob"), roster.has(phone)) == (0, (), False)


def test_a_newer_session_takes_the_place_of_its_device() -> None:
    roster = Roster()
    phone, web, again = session("bob", "phone"), session("bob", "web"), session("bob", "phone")
    roster.add(phone)
    roster.add(web)
    assert roster.add(again) is phone
    assert roster.of("bob") == (web, again)


def test_sessions_may_leave_while_they_are_gone_through() -> None:
    roster = Roster()
    for user in ("alice", "bob"):
        for device in ("phone", "web"):
            roster.add(session(user, device))
    for one in roster:
        roster.remove(one)
    assert not roster


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from("xyz"))))
def test_it_is_a_table_by_key(steps: list[tuple[bool, str, str]]) -> None:
    roster, model = Roster(), dict[SessionKey, Session]()
    for comes, user, device in steps:
        key = SessionKey(user, device)
        if comes:
            new = session(user, device)
            assert roster.add(new) is model.pop(key, None)
            model[key] = new
        elif key in model:
            roster.remove(model.pop(key))
        assert roster.get(key) is model.get(key)
        assert len(roster) == len(model)
        assert sorted(one.key for one in roster) == sorted(model)
        assert list(roster.of(user)) == [one for name, one in model.items() if name.user == user]
