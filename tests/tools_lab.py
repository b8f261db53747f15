"""A scripted model that knows functions: its template writes them as Qwen2.5's does, its words are the test's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from served_parts import Scripted, served_talker

from anytalk.model.talker import Talker
from anytalk.plugins.contracts import TextRequest, TextStream
from anytalk.plugins.piece_tokenizer import PieceTokenizer

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Tell the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


class QwenLikeTokenizer(PieceTokenizer):
    """Writes chats as Qwen2.5's template does."""

    def render_chat(self, messages: Sequence[dict[str, str]], **arguments: Any) -> str:
        return self.render_tools(messages, [])

    def render_tools(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
        out = ""
        for number, message in enumerate(messages):
            role, content = message["role"], message["content"]
            if role == "system" and tools:
                content += "\n\n# Tools\n<tools>\n" + "\n".join(map(json.dumps, tools)) + "\n</tools>\nUse <tool_call>."
            for call in message.get("tool_calls", []):
                content += f"{chr(10) if content else ''}<tool_call>\n{json.dumps(call['function'])}\n</tool_call>"
            if role == "tool":
                is_first = messages[number - 1]["role"] != "tool"
                is_last = number + 1 == len(messages) or messages[number + 1]["role"] != "tool"
                out += "<|im_start|>user" if is_first else ""
                out += f"\n<tool_response>\n{content}\n</tool_response>" + ("<|im_end|>\n" if is_last else "")
            else:
                out += f"<|im_start|>{role}\n{content}<|im_end|>\n"
        return out + "<|im_start|>assistant\n"


def scripted_talker(answer: Callable[[list[str]], str], pause_s: float = 0.0, knows_tools: bool = True) -> Talker:
    """A talker that answers by a function of what all messages say."""

    def script(request: TextRequest, stream: TextStream) -> None:
        for piece in answer([message["content"] for message in request.messages]).split(" "):
            stream.put(f"{piece} ")
            time.sleep(pause_s)
        stream.end()

    backbone = Scripted(script)
    if knows_tools:
        backbone.tokenizer = QwenLikeTokenizer()
    return served_talker(backbone)


def weather(said: list[str]) -> str:
    """Calls when it is asked about the weather and knows the function, and says what came back."""
    last = said[-1]
    if last.startswith("<tool_response>"):
        return (
            "It is " + " and ".join(last.replace("<tool_response>", "").replace("</tool_response>", "").split()) + "."
        )
    if "weather" not in last:
        return "Hello, how can I help you today?"
    if "<tools>" not in said[0]:
        return "I can't look."
    return f"One moment. {CALL}\n{OTHER}" if "both" in last else CALL
