"""Plan what the model is asked, from a session's options and a client's request."""

from __future__ import annotations

from anytalk.decode.engine import DecodeOptions
from anytalk.decode.jobs import Question, Said, Speech
from anytalk.grid.tasks import TASKS
from anytalk.serve.calling import NO_TOOLS, opening_of, read_tools, with_tools
from anytalk.serve.errors import RequestError
from anytalk.serve.questions import SILENCE, speaker_of, task_for, with_instructions
from anytalk.serve.realtime.events import ResponseOptions
from anytalk.serve.realtime.items import Conversation, Item, read_item, turns_of
from anytalk.serve.realtime.response import ResponsePlan
from anytalk.serve.realtime.session_options import SessionOptions, one_modality, tokens_of, wire_format
from anytalk.serve.sound import KeptSound
from anytalk.serve.state import ServerState


def plan_response(
    state: ServerState, options: SessionOptions, wanted: ResponseOptions, conversation: Conversation
) -> ResponsePlan:
    """Plan a response from the session's options and those of the request.

    Raises:
        RequestError: there is nothing to answer, or the request needs something that this server can't do.
    """
    asked = options.tools if wanted.tools is None else wanted.tools
    choice = options.tool_choice if wanted.tool_choice is None else wanted.tool_choice
    many = options.parallel_tool_calls if wanted.parallel_tool_calls is None else wanted.parallel_tool_calls
    if state.spelling is None and wanted.tool_choice not in (None, "auto", "none"):
        raise RequestError(NO_TOOLS, "unsupported_value", "response.tool_choice")
    tools = read_tools(asked, choice, many, "response") if state.spelling is not None else None
    modalities = wanted.output_modalities or options.output_modalities
    spoken = one_modality(list(modalities), "response.output_modalities")
    output = wanted.audio.output if wanted.audio is not None else None
    wire, voice = options.output_format(), options.audio.output.voice
    if output is not None and output.format is not None:
        wire = wire_format(output.format, "response.audio.output.format")
    if output is not None and output.voice is not None:
        voice = output.voice
    limit = wanted.max_output_tokens if wanted.max_output_tokens is not None else options.max_output_tokens
    instructions = wanted.instructions if wanted.instructions is not None else options.instructions
    if len(instructions) > state.settings.max_text_chars:
        said = f"the instructions have {len(instructions)} characters; {state.settings.max_text_chars} are allowed"
        raise RequestError(said, "string_above_max_length", "response.instructions")
    turns = _asked(_turns(state, wanted, conversation), options.instructions, wanted.instructions)
    if tools is not None and state.spelling is not None:
        turns = with_tools(turns, tools, state.spelling)
    opening, choices = opening_of(tools, state.talker, state.spelling)
    return ResponsePlan(
        question=Question(
            turns=turns,
            task=task_for(turns, spoken and not opening),
            options=state.decode_options(tokens_of(limit, "response.max_output_tokens")),
            speaker=speaker_of(voice, state.talker, "response.audio.output.voice"),
            opening=opening,
            choices=choices,
            max_context_columns=state.settings.max_context_columns,
        ),
        spoken=spoken,
        wire=wire,
        voice=voice,
        speed=options.audio.output.speed,
        in_conversation=wanted.conversation != "none",
        max_output_tokens=limit,
        metadata=wanted.metadata,
        tools=tools,
        left_out=[*_unknown(wanted), *([NO_TOOLS] if wanted.tools and state.spelling is None else [])],
    )


def _unknown(wanted: ResponseOptions) -> list[str]:
    """Return sentences about fields of the request that have no effect."""
    names = [*(wanted.model_extra or {}), *(name for name in ("prompt", "reasoning") if getattr(wanted, name))]
    return [f"response.{name[:80]} has no effect here" for name in names[:20]]


def transcript_question(state: ServerState, item: Item) -> Question:
    """Return the question that asks for the transcript of a spoken turn."""
    return Question(
        turns=[Said("user", None, item.speech)],
        task=TASKS["A1T1"],
        options=DecodeOptions(rule=state.talker.config.decode_rule, max_columns=state.settings.max_columns),
        max_context_columns=state.settings.max_context_columns,
    )


def _asked(turns: list[Said], standing: str, once: str | None) -> list[Said]:
    """Return turns that end with the user's, as models need it; RequestError if nobody said anything.

    Args:
        standing: The session's instructions.
        once: The instructions of this response; if the last turn isn't the user's, they become the question.
    """
    if turns and turns[-1].role == "user":
        return with_instructions(turns, standing if once is None else once)
    if once:
        # Such as a request for a greeting or a second answer.
        return [*with_instructions(turns, standing), Said("user", once)]
    asked = with_instructions(turns, standing)
    if not asked:
        raise RequestError(
            "there is nothing to answer: the conversation is empty, and there are no instructions; add an item, or say"
            " what to do in response.instructions",
            "nothing_to_answer",
        )
    if len(asked) == 1 and asked[0].role == "system":
        return [Said("user", asked[0].text)]
    return [*asked, Said("user", SILENCE)]


def _turns(state: ServerState, wanted: ResponseOptions, conversation: Conversation) -> list[Said]:
    if wanted.input is None:
        return conversation.turns(state.spelling)

    def refuse(_data: str, param: str) -> tuple[Speech, KeptSound]:
        raise RequestError("sound in response.input is given by item_reference", "unsupported_value", param)

    items = []
    for given in wanted.input:
        if given.get("type") == "item_reference":
            items.append(conversation.find(str(given.get("id")), "response.input"))
        else:
            items.append(read_item(given, refuse, state.settings.max_text_chars))
    return turns_of(items, state.spelling)
