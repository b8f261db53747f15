"""Sound that the server plays: in which order, what is told of it, and how much of it counts as heard."""

from __future__ import annotations

import json

import numpy as np

from anytalk.serve.realtime.outbox import Cut
from anytalk.serve.realtime.playing import FRAME, PlayingOutbox
from anytalk.serve.sound import WireFormat

WIRE = WireFormat("audio/pcm", 48_000)


async def nowhere(_: str) -> None:
    pass


def outbox() -> PlayingOutbox:
    return PlayingOutbox(nowhere, 1 << 20, 1.0)


def put(box: PlayingOutbox, name: str, samples: int) -> None:
    data = WIRE.encode(np.full(samples, 0.5, np.float32))
    box.put_sound({"response_id": f"resp_{name}", "item_id": f"item_{name}"}, data, WIRE, samples / 48)


def told(box: PlayingOutbox) -> list[str]:
    events = [json.loads(waiting.text) for waiting in box._waiting]
    return [f"{event['type'].rpartition('.')[2]} {event['response_id']}" for event in events]


def test_answers_follow_each_other_without_a_gap() -> None:
    box = outbox()
    put(box, "a", FRAME * 3 // 2)
    put(box, "b", FRAME)
    assert box.frame().all()
    half = box.frame()
    assert (np.count_nonzero(half), told(box)) == (FRAME // 2, ["started resp_a"])
    put(box, "a", FRAME // 2)  # more of it comes later than it should
    box.end_sound("resp_a")
    box.end_sound("resp_b")
    box.end_sound("resp_b")
    assert box.frame().all()
    assert told(box) == ["started resp_a", "stopped resp_a", "started resp_b"]
    assert np.count_nonzero(box.frame()) == FRAME // 2
    assert told(box)[3:] == ["stopped resp_b"]
    assert not box.frame().any()


def test_what_was_not_played_is_dropped_and_what_was_is_known() -> None:
    box = outbox()
    put(box, "a", 5 * FRAME)
    put(box, "b", 5 * FRAME)
    box.frame()
    box.frame()
    assert box.drop_sound("resp_a") == 60.0
    assert (box.take_cuts(), box.take_cuts()) == ([Cut("item_a", 40)], [])
    assert told(box) == ["started resp_a", "cleared resp_a"]
    box.drop_all_sound()  # nobody heard anything of the second one
    assert box.take_cuts() == []
    assert not box.frame().any()
    assert told(box)[2:] == []


def test_who_lets_minutes_wait_does_not_listen() -> None:
    box = outbox()
    for _ in range(5):
        put(box, "a", 48_000 * 50)
    assert box._overflowed is not None
    assert "250 s of sound" in box._overflowed
