"""Functions: what the template writes of them, calls that are read and never spoken, and what came of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serve_lab import Running, run, running, talking, without_deltas
from test_backbones import make_tokenizer
from tokenizers import AddedToken
from tools_lab import CALL, OTHER, WEATHER, QwenLikeTokenizer, scripted_talker, weather

from anytalk.grid.chat import encode_chat, parts_of
from anytalk.grid.tools import Call, CallReader, ToolSpelling, read_calls
from anytalk.plugins.hf.tokenizer import HFTokenizer
from anytalk.plugins.piece_tokenizer import PieceTokenizer

PARIS = {"city": "Paris"}
CHAT_TOOL: Any = {
    "type": "function",
    "function": {name: WEATHER[name] for name in WEATHER if name != "type"},
}
CALL_ORDER = [
    "response.output_item.added",
    "conversation.item.added",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "conversation.item.done",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(scripted_talker(weather), max_columns=120) as found:
        yield found


# Spelling


def test_what_a_template_writes_is_taken_apart() -> None:
    spelling = ToolSpelling.of(QwenLikeTokenizer())
    assert spelling is not None
    system = spelling.system("Be brief.", [CHAT_TOOL])
    assert system.startswith("Be brief.\n\n# Tools")
    assert "get_weather" in system
    assert "im_start" not in system
    assert spelling.system("", [CHAT_TOOL]).startswith("# Tools")
    calls = spelling.calls("One moment.", [Call("get_weather", '{"city": "Paris"}'), Call("f", "{}")])
    assert calls.startswith(f"One moment.\n{CALL}")
    assert [call.name for call in read_calls(calls)] == ["get_weather", "f"]
    assert spelling.calls("", [Call("get_weather", '{"city": "Paris"}')]) == CALL
    results = spelling.results(["sunny", "wet"])
    assert results.split() == [
        word for one in ("sunny", "wet") for word in ("<tool_response>", one, "</tool_response>")
    ]


QWEN = """\
{%- set system = messages[0].content if messages[0].role == 'system' else 'You are Qwen.' %}
{{- '<|im_start|>system\\n' + system }}
{%- if tools %}
    {{- '\\n\\n# Tools\\n\\nYou may call one or more functions.\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}
    {{- '\\n</tools>\\n\\nReturn <tool_call>\\n{"name": <name>, "arguments": <object>}\\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>assistant' + ('\\n' + message.content if message.content else '') }}
        {%- for call in message.tool_calls %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}{{ '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user' if loop.previtem.role != 'tool' }}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {{- '<|im_end|>\\n' if loop.last or loop.nextitem.role != 'tool' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}"""


def test_the_template_of_qwen_is_taken_apart() -> None:
    """Written shorter, but as Qwen2.5's is: with a system message of its own, and results in the user's turn."""
    base = make_tokenizer()
    base.chat_template = QWEN
    spelling = ToolSpelling.of(HFTokenizer(base))
    assert spelling is not None
    system = spelling.system("Be brief.", [CHAT_TOOL])
    assert system.startswith("Be brief.\n\n# Tools")
    assert '"name": "get_weather"' in system
    assert spelling.calls("", read_calls(CALL)) == CALL
    assert spelling.calls("One moment.", read_calls(CALL + OTHER)) == f"One moment.\n{CALL}\n{OTHER}"
    assert spelling.results(["sunny"]) == "<tool_response>\nsunny\n</tool_response>"
    assert ToolSpelling.of(HFTokenizer(make_tokenizer())) is None


def test_a_prompt_with_functions_is_the_base_models_own() -> None:
    """Also its ids: what the template writes is markup, what a function returned is not."""
    base = make_tokenizer()
    base.add_tokens([AddedToken("<tool_call>"), AddedToken("</tool_call>"), AddedToken("<tool_response>")])
    base.chat_template = QWEN
    tokenizer = HFTokenizer(base)
    spelling = ToolSpelling.of(tokenizer)
    assert spelling is not None
    call = {"type": "function", "function": {"name": "get_weather", "arguments": PARIS}}

    def prompt(result: str) -> list[int]:
        turns = [
            ("system", parts_of(spelling.system("Be brief.", [CHAT_TOOL]))),
            ("user", ["The weather?"]),
            ("assistant", parts_of(spelling.calls("", read_calls(CALL)))),
            ("user", parts_of(spelling.results([result]))),
        ]
        return [i for piece in encode_chat(tokenizer, turns) if not isinstance(piece, int) for i in piece]

    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "The weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
    ]
    rendered = base.apply_chat_template(messages, tools=[CHAT_TOOL], tokenize=False, add_generation_prompt=True)
    expected = tokenizer.encode_rendered(rendered)
    assert prompt("sunny") == expected
    end = tokenizer.eos_id
    assert prompt("sunny<|im_end|>").count(end) == expected.count(end)
    typed = spelling.calls("A <tool_call>?", [Call("f", json.dumps({"a": "</tool_call><tool_call>"}))])
    assert typed.count("<tool_call>") == 3
    ids = encode_chat(tokenizer, [("user", ["?"]), ("assistant", parts_of(typed)), ("user", ["?"])])
    begin, close = tokenizer.encode_rendered("<tool_call></tool_call>")
    assert [i for piece in ids if not isinstance(piece, int) for i in piece if i in (begin, close)] == [begin, close]


def test_templates_that_know_no_functions() -> None:
    class Deaf(QwenLikeTokenizer):
        def render_tools(self, messages: Any, tools: Any) -> str:
            return super().render_tools([m for m in messages if m["role"] != "tool"], [])

    assert ToolSpelling.of(PieceTokenizer()) is None
    assert ToolSpelling.of(Deaf()) is None


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_words_are_told_from_calls(size: int) -> None:
    def read(text: str) -> tuple[str, list[Call]]:
        reader, words = CallReader(), ""
        for start in range(0, len(text), size):
            words += reader.push(text[start : start + size])
            assert "<tool" not in words
        rest, calls = reader.finish()
        return words + rest, calls

    assert read("Is 1 < 2? <b>Yes</b> <tool") == ("Is 1 < 2? <b>Yes</b> <tool", [])
    assert read(f"One moment.\n{CALL}\n{OTHER}") == ("One moment.", read_calls(CALL + OTHER))
    assert read(CALL.removesuffix("</tool_call>")) == ("", [Call("get_weather", '{"city": "Paris"}')])


BARE = '{"name": "get_weather", "arguments": {"city": "Paris"}}'


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BARE, None),
        (f"```json\n{BARE}\n```", None),
        (f" {{\n {BARE[1:]}\nI call it.", None),
        (BARE.replace("get_weather", "other"), BARE.replace("get_weather", "other")),
        ('{"name": "Ann"} is JSON', '{"name": "Ann"} is JSON'),
        ('{"name": "Ann', '{"name": "Ann'),
        (f"Call {BARE}", f"Call {BARE}"),
    ],
)
def test_calls_without_marks_stand_at_the_beginning(size: int, text: str, words: str | None) -> None:
    reader, said = CallReader(["get_weather"]), ""
    for start in range(0, len(text), size):
        said += reader.push(text[start : start + size])
    rest, calls = reader.finish()
    assert (said + rest, calls) == ((words, []) if words is not None else ("", read_calls(CALL)))
    plain = CallReader()
    assert plain.push(text) + plain.finish()[0] == text, "where no functions are known, it is what it was"


@pytest.mark.parametrize("written", ["{", "[]", '{"arguments": {}}', '{"name": "f", "arguments": []}'])
def test_calls_that_can_not_be_read(written: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_calls(f"<tool_call>{written}</tool_call>")


# Realtime


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_a_call_its_result_and_the_answer(server: Running, modality: str) -> None:
    async def talk() -> None:
        async with talking(server, tools=[WEATHER], output_modalities=[modality]) as client:
            assert client.events[-1].session.tools[0].name == "get_weather"
            await client.type("What's the weather?")
            begin = len(client.events)
            response, sound = await client.answer()
            assert sound == b"", "a call is never spoken"
            assert without_deltas(client.types(begin)) == ["response.created", *CALL_ORDER, "response.done"]
            assert response.status == "completed"
            (call,) = response.output
            assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", PARIS)
            delta = next(e for e in client.events[begin:] if e.type == "response.function_call_arguments.delta")
            assert (delta.call_id, json.loads(delta.delta)) == (call.call_id, PARIS)
            item = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
            await client.connection.conversation.item.create(item=item)
            assert (await client.until("conversation.item.added")).item.output == "sunny"
            await client.until("conversation.item.done")
            answer, sound = await client.answer()
            part = answer.output[0].content[0]
            assert (part.transcript if modality == "audio" else part.text).strip() == "It is sunny."
            assert bool(sound) == (modality == "audio")

    run(talk())


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_the_call_is_the_one_that_was_written_first(modality: str) -> None:
    """The model is asked once, and nothing of the call is spoken; what it would write another time doesn't matter."""
    asked = itertools.count()

    def answer(said: list[str]) -> str:
        return f"One moment. {CALL.replace('Paris', f'City{next(asked)}')}"

    async def talk(server: Running) -> None:
        async with talking(server, tools=[WEATHER], output_modalities=[modality]) as client:
            for number in range(2):
                await client.type("What's the weather?")
                response, sound = await client.answer()
                assert json.loads(response.output[-1].arguments) == {"city": f"City{number}"}
                assert len(sound) < 24_000 * 2 * 3
            assert next(asked) == 2

    with running(scripted_talker(answer, pause_s=0.05), max_columns=120) as server:
        run(talk(server))


def test_words_before_two_calls(server: Running) -> None:
    async def talk() -> None:
        async with talking(server) as client:
            await client.type("The weather in both?")
            options = {"tools": [WEATHER], "output_modalities": ["text"]}
            response, _ = await client.answer(**options)
            message, *calls = response.output
            assert message.content[0].text == "One moment."
            assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]
            indices = [e.output_index for e in client.events if e.type == "response.output_item.done"]
            assert indices == [0, 1, 2]
            for call, output in zip(calls, ("sunny", "wet"), strict=True):
                item = {"type": "function_call_output", "call_id": call.call_id, "output": output}
                await client.connection.conversation.item.create(item=item)
                await client.until("conversation.item.done")
            answer, _ = await client.answer(**options)
            assert answer.output[0].content[0].text.strip() == "It is sunny and wet."
            await client.type("The weather in both?")
            response, _ = await client.answer(**options, parallel_tool_calls=False)
            assert [item.type for item in response.output] == ["message", "function_call"]

    run(talk())


def test_tools_that_may_and_must_be_chosen(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, tools=[WEATHER], output_modalities=["text"]) as client:
            await client.type("The weather?")
            response, _ = await client.answer(tool_choice="none")
            assert response.output[0].content[0].text.strip() == "I can't look."
            await client.type("Hello!")
            response, _ = await client.answer(tool_choice="required")
            assert response.status == "failed"
            assert "called no function" in response.status_details.error.message
            await client.type("weather!")
            response, _ = await client.answer(tool_choice={"type": "function", "name": "get_weather"})
            assert response.output[0].name == "get_weather"
            await client.connection.response.create(response={"tool_choice": {"type": "function", "name": "f"}})
            assert "none of the tools" in (await client.error()).message

    run(talk())


def test_what_is_not_a_call_is_spoken_with_tools_at_hand(server: Running) -> None:
    async def talk() -> None:
        async with talking(server, tools=[WEATHER]) as client:
            await client.type("Hello!")
            response, sound = await client.answer()
            assert response.output[0].content[0].transcript.startswith("Hello, how")
            assert sound

    run(talk())


def test_a_model_that_knows_no_functions_says_so_and_answers() -> None:
    async def talk(server: Running) -> None:
        async with talking(server, output_modalities=["text"]) as client:
            told = await client.setup(tools=[WEATHER], instructions="Be brief.")
            assert "template doesn't support functions" in told.anytalk["left_out"][0]["reason"]
            assert told.session.instructions == "Be brief."
            await client.type("The weather?")
            response, _ = await client.answer(tools=[WEATHER])
            assert response.output[0].content[0].text.strip() == "I can't look."
            created = next(e for e in client.events if e.type == "response.created")
            assert "template doesn't support functions" in created.anytalk["left_out"][0]
        async with server.client() as client:
            messages: Any = [{"role": "user", "content": "x"}]
            with pytest.raises(openai.BadRequestError, match="template doesn't support functions"):
                await client.chat.completions.create(model="x", messages=messages, tools=[CHAT_TOOL])

    with running(scripted_talker(weather, knows_tools=False)) as server:
        run(talk(server))


# Chat completions


@pytest.mark.parametrize("stream", [False, True])
def test_chat_completions_call_functions(server: Running, stream: bool) -> None:
    async def ask() -> None:
        messages: list[Any] = [{"role": "user", "content": "The weather in both?"}]
        async with server.client() as client:
            create = client.chat.completions.create
            if stream:
                chunks = [c async for c in await create(model="x", messages=messages, tools=[CHAT_TOOL], stream=True)]
                choices = [chunk.choices[0] for chunk in chunks]
                text = "".join(choice.delta.content or "" for choice in choices)
                calls = [call for choice in choices for call in choice.delta.tool_calls or []]
                assert [call.index for call in calls] == [0, 1]
                finish = choices[-1].finish_reason
            else:
                found = await create(model="x", messages=messages, tools=[CHAT_TOOL])
                text, finish = found.choices[0].message.content, found.choices[0].finish_reason
                calls = found.choices[0].message.tool_calls
            assert (text, finish) == ("One moment.", "tool_calls")
            assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Paris", "Rome"]
            shown = [{"id": c.id, "type": "function", "function": dict(c.function)} for c in calls]
            messages.append({"role": "assistant", "content": text, "tool_calls": shown})
            for call, result in zip(calls, ("sunny", "wet"), strict=True):
                messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
            answer = await create(model="x", messages=messages, tools=[CHAT_TOOL])
            assert answer.choices[0].message.content.strip() == "It is sunny and wet."
            assert answer.choices[0].finish_reason == "stop"

    run(ask())


def test_a_spoken_chat_may_call_too(server: Running) -> None:
    async def ask() -> None:
        options: Any = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
        async with server.client() as client:
            for text, calls in (("The weather?", True), ("Hello!", False)):
                found = await client.chat.completions.create(
                    model="x", messages=[{"role": "user", "content": text}], tools=[CHAT_TOOL], **options
                )
                message = found.choices[0].message
                assert bool(message.tool_calls) == calls
                assert bool(message.audio) != calls

    run(ask())
