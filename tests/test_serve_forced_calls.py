"""A model of this machine that must call a function begins its answer with the call: it can only go on with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serve_lab import Running, record, run, running, talking
from talkers import make_talker
from tools_lab import WEATHER, QwenLikeTokenizer

from anytalk.decode.engine import DecodeOptions, Generation
from anytalk.decode.session import Session
from anytalk.decode.telling import AnswerDone
from anytalk.grid.prompts import Turn
from anytalk.grid.tasks import TASKS
from anytalk.grid.tools import ToolSpelling
from anytalk.model.talker import Talker

TIME = {**WEATHER, "name": "get_time"}
ANY = '<tool_call>\n{"name": "'
NAMED = '<tool_call>\n{"name": "get_weather", "arguments":'
CHOSEN: Any = {"type": "function", "name": "get_weather"}


@pytest.fixture(scope="module")
def talker() -> Talker:
    """One whose template knows functions."""
    made, spelling = make_talker(), QwenLikeTokenizer()
    tokenizer: Any = made.model.backbone.tokenizer
    tokenizer.render_chat, tokenizer.render_tools = spelling.render_chat, spelling.render_tools
    return made


@pytest.fixture(scope="module")
def server(talker: Talker) -> Iterator[Running]:
    with running(talker, max_columns=120) as found:
        yield found


def writes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model write a text, after what its answer begins with."""

    def next_text(self: Generation, _: object, index: int) -> int:
        ids = self.model.backbone.tokenizer.encode(text)
        return ids[index] if index < len(ids) else self.model.layout.end_of_text_id

    monkeypatch.setattr(Generation, "_next_text", next_text)


def test_the_opening_is_the_templates() -> None:
    spelling = ToolSpelling.of(QwenLikeTokenizer())
    assert spelling is not None
    assert spelling.opening(["get_weather"]) == (NAMED, ())
    assert spelling.opening(["get_weather", "get_time"]) == (ANY, (NAMED.removeprefix(ANY), 'get_time", "arguments":'))


def test_it_stands_at_the_prompts_end(talker: Talker) -> None:
    plain, opened = (talker.prompts.prompt(TASKS["T1T2"], [Turn("user", "Hello!")], text) for text in ("", ANY))
    row = talker.model.layout.text_row
    ids = talker.model.backbone.tokenizer.encode_rendered(ANY)
    assert opened.tokens[row].tolist() == [*plain.tokens[row].tolist(), *ids]


@pytest.mark.parametrize(
    ("tools", "choice", "opening", "rest"),
    [
        ([WEATHER, TIME], "required", ANY, 'get_time", "arguments": {"city": "Rome"}}\n</tool_call>'),
        ([WEATHER], "required", NAMED, ' {"city": "Rome"}}\n</tool_call>'),
        ([WEATHER, TIME], CHOSEN, NAMED, ' {"city": "Rome"}}\n</tool_call>'),
    ],
)
def test_it_is_called_in_realtime_and_in_chat(
    server: Running, monkeypatch: pytest.MonkeyPatch, tools: list[Any], choice: Any, opening: str, rest: str
) -> None:
    asked = record(server, monkeypatch)
    writes(rest, monkeypatch)
    name = "get_time" if "get_time" in rest else "get_weather"

    async def talk() -> None:
        async with talking(server, tools=tools) as client:
            await client.type("Hello!")
            response, sound = await client.answer(tool_choice=choice)
            assert response.status == "completed"
            (item,) = response.output
            assert (item.name, item.arguments, sound) == (name, '{"city": "Rome"}', b"")
        described: Any = [{"type": "function", "function": {k: v for k, v in t.items() if k != "type"}} for t in tools]
        chosen: Any = {"type": "function", "function": {"name": "get_weather"}} if choice is CHOSEN else choice
        async with server.client() as client:
            done = await client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "Hello!"}],
                tools=described,
                tool_choice=chosen,
                modalities=["text", "audio"],
                audio={"voice": "alloy", "format": "wav"},
            )
        message = done.choices[0].message
        assert done.choices[0].finish_reason == "tool_calls"
        assert (message.content, message.audio) == (None, None)
        assert [call.function.name for call in message.tool_calls or () if call.type == "function"] == [name]

    run(talk())
    assert [question.opening for question in asked] == [opening] * 2


def test_only_functions_that_are_there_can_be_named(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model writes noise, but for what it has to."""
    asked = record(server, monkeypatch)

    async def talk() -> None:
        async with talking(server, tools=[WEATHER, TIME], output_modalities=["text"]) as client:
            await client.type("Hello!")
            await client.answer(tool_choice="required", max_output_tokens=40)

    run(talk())
    choices = asked[0].choices
    assert len(choices) == 2
    talker = server.state.talker
    options = DecodeOptions(
        max_columns=40, beginnings=tuple(tuple(talker.model.backbone.tokenizer.encode(c)) for c in choices)
    )
    for text in ("Hello!", "What time is it?", "?"):
        done = list(Session(talker).ask(text=text, task="T1T2", options=options))[-1]
        assert isinstance(done, AnswerDone)
        assert done.text.startswith(choices)


def test_a_function_that_is_not_there_is_not_called(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    writes('rob_bank", "arguments": {}}\n</tool_call>', monkeypatch)

    async def talk() -> None:
        async with talking(server, tools=[WEATHER, TIME], output_modalities=["text"]) as client:
            await client.type("Hello!")
            response, _ = await client.answer(tool_choice="required")
            assert response.status == "failed"
            assert "none of the tools" in response.status_details.error.message
            await client.setup(tools=[])
            await client.connection.response.create(response={"tool_choice": "required"})
            assert "no tools to call" in (await client.error()).message

    run(talk())


def test_a_template_that_knows_no_functions_is_refused() -> None:
    async def talk(server: Running) -> None:
        async with talking(server) as client:
            told = await client.setup(tool_choice="required")
            assert told.anytalk["left_out"][0]["param"] == "session.tool_choice"
            await client.type("Hello!")
            await client.connection.response.create(response={"tool_choice": "required", "tools": [WEATHER]})
            assert "doesn't support functions" in (await client.error()).message
            response, _ = await client.answer(max_output_tokens=3)
            assert response.status == "incomplete"
        async with server.client() as client:
            with pytest.raises(openai.BadRequestError, match="doesn't support functions"):
                await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "x"}], tool_choice="required"
                )

    with running(make_talker()) as server:
        run(talk(server))
