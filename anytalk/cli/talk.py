"""Ask a talker a question and play the answer while it is generated: ``anytalk talk``."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from anytalk.cli.devices import choose_device, set_threads
from anytalk.cli.render import complain, loading, note, seconds
from anytalk.errors import AnytalkError, AudioError, ConfigError
from anytalk.grid.audio import check_speech, joined, read_wave, write_wave
from anytalk.grid.tasks import Task, find_task
from anytalk.model.config import TalkerConfig, read_config

if TYPE_CHECKING:
    from anytalk.decode.engine import DecodeOptions
    from anytalk.decode.session import Session
    from anytalk.decode.telling import AnswerDone
    from anytalk.plugins.contracts import Ears, SpeechEncoder

_CHECK_RATE_HZ = 16_000
"""Rate at which a question is checked before torch is loaded; most encoders use this rate."""

_SAMPLING, _AUDIO = "Sampling text", "Sampling audio"


def command(
    folder: Path = typer.Argument(help="Talker folder."),
    question: Path | None = typer.Argument(None, help="A spoken question: wav, flac, ogg, mp3, webm, mp4, m4a."),
    text: str | None = typer.Option(None, help="A typed question."),
    mic: bool = typer.Option(False, "--mic", help="Ask through the microphone."),
    read_aloud: str | None = typer.Option(None, "--say", help="Text to read aloud (task T1A1)."),
    interactive: bool = typer.Option(False, "-i", "--interactive", help="Start a conversation (/reset, /quit)."),
    out_wav: Path | None = typer.Option(None, "-o", "--out", help="Write the spoken answer to this file."),
    out_text: Path | None = typer.Option(None, help="Write the text answer to this file."),
    speaker: bool = typer.Option(False, "--speaker", help="Play the answer while it is generated."),
    text_only: bool = typer.Option(False, "--text-only", help="Answer in text only (T1T2, A1T2)."),
    task: str | None = typer.Option(
        None, help="A1A2, A1T1, A1T2, T1A1, T1A2 or T1T2; default: decided by the question."
    ),
    voice: str | None = typer.Option(None, help="Voice of the answer, if the talker has several."),
    temperature: float = typer.Option(
        0.0, help="Sampling temperature of text; 0 takes the likeliest token.", rich_help_panel=_SAMPLING
    ),
    top_k: int = typer.Option(0, help="Top-k for text sampling; 0 is off.", rich_help_panel=_SAMPLING),
    top_p: float = typer.Option(
        1.0,
        help="Top-p (nucleus) for text sampling; 1 is off.",
        rich_help_panel=_SAMPLING,
    ),
    repetition_penalty: float = typer.Option(
        1.0, help="Penalty for text tokens that occurred before; 1 is off.", rich_help_panel=_SAMPLING
    ),
    audio_temperature: float = typer.Option(0.0, help="Sampling temperature of audio.", rich_help_panel=_AUDIO),
    audio_top_k: int = typer.Option(0, help="Top-k for audio sampling.", rich_help_panel=_AUDIO),
    audio_top_p: float = typer.Option(1.0, help="Top-p for audio sampling.", rich_help_panel=_AUDIO),
    audio_repetition_penalty: float = typer.Option(1.0, help="Repetition penalty of audio.", rich_help_panel=_AUDIO),
    max_columns: int = typer.Option(512, min=1, help="Longest answer, in grid columns."),
    seed: int | None = typer.Option(None, help="Seed for sampling.", rich_help_panel=_SAMPLING),
    stride: int = typer.Option(1, help="Codec frames per chunk of sound: more is cheaper, fewer is sooner."),
    batch_parallel: bool = typer.Option(True, help="Generate text in a batch row of its own (paper 3.2)."),
    arithmetic: str | None = typer.Option(
        None,
        help="exact, fused, graphs, packed, int8 or int4 (see `anytalk bench precision`); default: from talker.yaml.",
    ),
    device: str = typer.Option("auto", help="auto, cpu or cuda."),
    threads: int | None = typer.Option(None, min=1, help="CPU threads."),
) -> None:
    """Ask a talker a question; print and play the answer while it is generated."""
    asked = [question is not None, text is not None, mic, read_aloud is not None, interactive]
    if sum(asked) != 1:
        raise ConfigError(
            f"{sum(asked) or 'no'} questions were given; exactly one is expected",
            "give one of: QUESTION.wav, --text TEXT, --mic, --say TEXT, --interactive",
        )
    config = read_config(folder)
    if read_aloud is not None:
        text, task = read_aloud, "T1A1"
    chosen = choose_task(config, task, spoken=question is not None or mic, text_only=text_only, is_open=interactive)
    # Check the question now: loading torch and the talker takes seconds.
    if question is not None:
        check_speech(read_wave(question, _CHECK_RATE_HZ), _CHECK_RATE_HZ, str(question))
    if text is not None and not text.strip():
        raise ConfigError("the question is empty", 'type something to ask: --text "Hello!"')
    config.check_speaker(voice, "--voice")
    if mic or speaker:
        from anytalk.cli.sound_device import load_sounddevice

        load_sounddevice()  # fails before the talker is loaded, if the package is missing
    with loading():
        from anytalk.cli.notes import note_at_start
        from anytalk.decode.engine import DecodeOptions
        from anytalk.decode.ready import make_talker_ready
        from anytalk.decode.sampling import SamplingOptions
        from anytalk.decode.session import Session
        from anytalk.model.talker import load_talker

        options = DecodeOptions(
            text=SamplingOptions(
                temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=repetition_penalty
            ),
            audio=SamplingOptions(
                temperature=audio_temperature,
                top_k=audio_top_k,
                top_p=audio_top_p,
                repetition_penalty=audio_repetition_penalty,
            ),
            batch_parallel=batch_parallel,
            max_columns=max_columns,
            rule=config.decode_rule,
            seed=seed,
        )
        set_threads(threads)
        hears = question is not None or mic or interactive
        talker = load_talker(folder, device=choose_device(device), with_encoder=hears)
        make_talker_ready(talker, arithmetic)
        session = Session(talker, stride_frames=stride)
    note_at_start(talker, speaks=not text_only)
    conversation = _Conversation(session, options, voice, out_wav, out_text, speaker, text_only)
    if interactive:
        conversation.loop()
    elif text is not None:
        conversation.ask(text=text, task=chosen)
    else:
        conversation.ask(wave=_listen(session) if question is None else _read(session, question), task=chosen)


def choose_task(config: TalkerConfig, name: str | None, *, spoken: bool, text_only: bool, is_open: bool) -> Task | None:
    """Return the task of this name, or the one that a spoken or typed question needs; None if each turn decides.

    Raises:
        UnknownNameError: the task doesn't exist.
        ConfigError: a talker without ears, or a task that doesn't fit the question.
    """
    if spoken and not config.hears:
        raise ConfigError("this talker has no ears", "ask by --text, or attach it again with a speech encoder")
    if is_open and name is None:
        return None
    chosen = find_task(name or _default_task(spoken, text_only))
    if not is_open and chosen.speech_in != spoken:
        kind, other = ("spoken", "typed") if spoken else ("typed", "spoken")
        raise ConfigError(
            f"task {chosen.name} needs a {other} question; a {kind} one was given", "choose another --task"
        )
    if text_only and chosen.audio_out:
        raise ConfigError(f"task {chosen.name} speaks, but --text-only was given", "leave one of them out")
    return chosen


def _default_task(spoken: bool, text_only: bool) -> str:
    return ("A1" if spoken else "T1") + ("T2" if text_only else "A2")


def _ears(session: Session) -> SpeechEncoder | Ears:
    ears = session.talker.model.listener
    if ears is None:
        raise ConfigError("this talker has no ears", "ask by text")
    return ears


def _read(session: Session, path: Path) -> np.ndarray:
    ears = _ears(session)
    wave = read_wave(path, ears.sample_rate_hz)
    check_speech(wave, ears.sample_rate_hz, str(path), ears.max_duration_s)
    return wave


def _listen(session: Session) -> np.ndarray:
    from anytalk.cli.sound_device import record

    note("speak now; Enter ends the question")
    return record(_ears(session).sample_rate_hz)


@dataclass
class _Conversation:
    """Ask questions one by one, and print, play and write the answers."""

    session: Session
    options: DecodeOptions
    voice: str | None
    out_wav: Path | None
    out_text: Path | None
    plays: bool
    text_only: bool
    _turn: int = field(default=0)

    def ask(self, *, text: str | None = None, wave: np.ndarray | None = None, task: Task | None = None) -> None:
        """Ask one question, print the answer as it is generated, then print times and sizes."""
        from anytalk.decode.telling import AnswerDone, AudioDelta, TextDelta, ThoughtDelta

        if task is None:
            task = find_task(_default_task(wave is not None, self.text_only))
        codec, pieces, done = self.session.talker.codec, list[np.ndarray](), None
        with ExitStack() as stack:
            loudspeaker: Any = None
            if self.plays and task.audio_out:
                from anytalk.cli.sound_device import Loudspeaker

                loudspeaker = stack.enter_context(Loudspeaker(codec.sample_rate_hz))
            events = self.session.ask(text=text, wave=wave, task=task, options=self.options, speaker=self.voice)
            # Ctrl-C leaves the loop early; closing the generator ends the answer, so that the next turn can begin.
            stack.callback(events.close)
            for event in events:
                if isinstance(event, ThoughtDelta):
                    typer.secho(event.text, nl=False, dim=True, err=True)
                elif isinstance(event, TextDelta):
                    typer.echo(event.text, nl=False)
                elif isinstance(event, AudioDelta):
                    pieces.append(event.wave)
                    if loudspeaker is not None:
                        loudspeaker.play(event.wave)
                elif isinstance(event, AnswerDone):
                    done = event
            typer.echo()
        assert done is not None
        self._turn += 1
        sound = joined(pieces)
        where = self._write(done.text, sound, codec.sample_rate_hz)
        note(_account(done, where, self.options.max_columns))

    def _write(self, text: str, sound: np.ndarray, rate_hz: int) -> Path | None:
        if self.out_text is not None:
            try:
                self._numbered(self.out_text).write_text(text + "\n", encoding="utf-8")
            except OSError as error:
                raise AudioError(f"'{self.out_text}' can't be written: {error}", "choose another --out-text") from None
        if self.out_wav is None or not len(sound):
            return None
        path = self._numbered(self.out_wav)
        write_wave(path, sound, rate_hz)
        return path

    def _numbered(self, path: Path) -> Path:
        """Return ``answer.wav`` for the first turn, ``answer-2.wav`` for the second and so on."""
        return path if self._turn == 1 else path.with_stem(f"{path.stem}-{self._turn}")

    def loop(self) -> None:
        """Read questions from the keyboard until ``/quit``; an error or Ctrl-C ends a turn, not the conversation."""
        note(
            "type a question or the path of a sound file; /reset forgets the conversation, /quit ends it,"
            " Ctrl-C stops an answer"
        )
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                return
            if line in ("/quit", "/exit"):
                return
            if line == "/reset":
                self.session.reset()
                note("the conversation is forgotten")
                continue
            if line.startswith("/") and not Path(line).is_file():
                complain(f"unknown command '{line}'", "/reset, /quit, a question, or the path of a sound file")
                continue
            if not line:
                continue
            try:
                if _is_sound_file(line):
                    self.ask(wave=_read(self.session, Path(line)))
                else:
                    self.ask(text=line)
            except AnytalkError as error:
                complain(error.message, error.hint)
            except KeyboardInterrupt:
                typer.echo()
                note("stopped: neither the question nor the answer stays in the conversation; /quit ends it")


def _is_sound_file(line: str) -> bool:
    return Path(line).suffix.lower() in (".wav", ".flac", ".ogg", ".mp3")


def _account(done: AnswerDone, where: Path | None, max_columns: int) -> str:
    pieces = []
    if done.audio_s and done.first_audio_s is not None and done.real_time_factor is not None:
        pieces += [
            f"first sound after {seconds(done.first_audio_s)}",
            f"{done.audio_s:.2f} s of speech",
            f"real-time factor {done.real_time_factor:.2f}",
        ]
    pieces.append(f"{done.num_columns} columns in {seconds(done.wall_s)}")
    if done.finish_reason == "length":
        is_ours = done.num_columns >= max_columns
        pieces.append("cut off: " + ("raise --max-columns" if is_ours else "the model has no room for more"))
    if where is not None:
        pieces.append(f"written to {where}")
    elif done.audio_s:
        pieces.append("not kept: -o FILE.wav writes it")
    return " | ".join(pieces)
