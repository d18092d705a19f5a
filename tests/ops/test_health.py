"""Ready means that every part says so."""

from imgateway.ops.health import Health


def test_a_new_node_is_starting() -> None:
    health = Health()
    assert not health.ready
    assert health.snapshot() == {"start": "starting"}


def test_every_part_must_be_fine() -> None:
    health = Health()
    health.set("start", True)
    assert health.ready
    health.set("store", False, "disk full")
    health.set("drain", False)
    assert not health.ready
    assert health.snapshot() == {"start": "", "store": "disk full", "drain": "not ready"}
    health.set("store", True)
    health.set("drain", True)
    assert health.ready
    assert health.notes() == {}


def test_a_part_may_be_fine_and_have_something_to_say() -> None:
    health = Health()
    health.set("start", True)
    health.set("store", True, "one of two is away")
    assert health.ready
    assert (health.snapshot()["store"], health.notes()) == ("", {"store": "one of two is away"})
    health.set("store", False, "both are away")
    assert (health.snapshot()["store"], health.notes()) == ("both are away", {})
    health.set("store", True)
    assert (health.snapshot()["store"], health.notes()) == ("", {})


def test_a_snapshot_is_a_copy() -> None:
    health = Health()
    before = health.snapshot()
    health.set("start", True)
    assert before == {"start": "starting"}


def test_what_is_noted_does_not_count() -> None:
    health = Health()
    health.set("start", True)
    health.note("registry", "it is away")
    assert health.ready
    assert health.notes() == {"registry": "it is away"}
    assert health.snapshot() == {"start": ""}
    health.note("registry", "")
    assert health.notes() == {"registry": ""}
