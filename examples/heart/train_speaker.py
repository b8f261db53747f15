"""Stage 4: phonemes to the codes of stage 2, with the durations of hibari-tts. The codec is frozen.

    python examples/heart/train_speaker.py SPEECH OUT --steps 5500 --bf16
    python examples/heart/train_speaker.py SPEECH OUT --codec FILE --voice FOLDER --learning-rate 6e-4 --bf16

The second line trains a finished voice further. A stopped training goes on with the same command.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anytalk_heart.codec import HeartCodec
from anytalk_heart.latents import NUM_LATENTS, WEIGHTS, from_hibari
from anytalk_heart.net import HeartNet, HeartSizes, load
from anytalk_heart.pronounce import EDGE as UNIT_EDGE
from anytalk_heart.pronounce import SPACE
from anytalk_heart.script import CONTEXT, LATENTS_PER_STEP
from anytalk_heart.speaker import END, PADDING, HeartSpeaker
from anytalk_heart.speaker_layers import LONGEST
from loop import Stage, trained
from safetensors.torch import load_file
from speech import Utterance, read
from spelling import spelled
from torch import Tensor, nn
from torch.nn import functional as F
from train_quantiser import parts_of

from anytalk.grid.delay import DelayPattern
from anytalk.grid.tokens import StreamLayout
from anytalk.model.talk_model import AudioEmbeddings
from anytalk.model.voice import VOICE_WEIGHTS
from anytalk.plugins.byte_tokenizer import ByteTokenizer

TEXT_LEAD = 9
"""Steps of text before the first sound, of the voice's grid."""
EDGE = 4
"""Latents of silence before the first word; hibari leaves 15."""
STREAM_WEIGHTS = (1.5, 1.25, 1.25, 0.75, 0.75, 0.75, 0.75)
"""What each stream's cross-entropy counts: the coarse codes decide what is heard."""
FRAMES_OF_BATCH = 800
MOST_HIDDEN = 0.6
"""Share of an answer's past audio that is hidden at most: what is said must come from the phonemes."""
WAITING, MOST_WAITS, LONGEST_WAIT = 0.5, 3, 20
"""Share of texts that wait for words, how often at most, and frames of a wait at most: models may write more slowly
than is spoken."""
ASIDE_STEPS = 200
"""Steps in which a finished voice learns nothing from the latents, whose layer is new."""
LAYOUT = StreamLayout(num_audio_streams=7, codebook_size=1024, text_vocab_size=1, end_of_text_id=0)


@dataclass(frozen=True)
class Said:
    """One text.

    Attributes:
        units: (n,) phonemes, the end not included.
        durations: (n,) latents.
        codes: (7,F).
        latents: (134, 4F) standardised.
        waits: (n,) latents before each unit in which nothing is said.
    """

    units: np.ndarray
    durations: np.ndarray
    codes: np.ndarray
    latents: np.ndarray
    waits: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--future", type=int, default=14, help="Of the voice decoder of stage 1, in columns.")
    parser.add_argument("--steps", type=int, default=5500)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--codec", type=Path, help="Weights of a finished codec, in place of stages 1 and 2.")
    parser.add_argument("--voice", type=Path, help="A voice folder to begin with.")
    parser.add_argument("--letters", action="store_true", help="Read letters in place of phonemes.")
    parser.add_argument("--spellable", action="store_true", help="Leave out the texts that --letters leaves out.")
    parser.add_argument("--bf16", action="store_true", help="Multiply in bfloat16; faster where the processor has it.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    codec = HeartCodec(load(asked.codec)) if asked.codec else codec_of(asked.out, asked.future)
    spoken, others = read(asked.speech, held_out=False), read(asked.speech, held_out=True)[:64]
    told = prepared(codec, spoken, asked.out / "said.pt")
    kept = prepared(codec, others, asked.out / "said-held-out.pt")
    if asked.letters or asked.spellable:
        told, kept = spellable(spoken, told, asked.letters), spellable(others, kept, asked.letters)
    parts = SpeakerParts()
    if asked.voice:
        parts.load_voice(asked.voice)
    training = SpeakerTraining(parts, told, kept, asked.bf16, ASIDE_STEPS if asked.voice else 0)
    Stage(asked.out, "speaker", {"parts": parts}, asked.steps, asked.learning_rate, warmup_steps=200).run(training)


def spellable(speech: Sequence[Utterance], told: Sequence[list[Said]], letters: bool) -> list[list[Said]]:
    """Keep the texts whose letters can be timed; with `letters`, letters become their units."""
    pairs = [(spelled(one.row), rows) for one, rows in zip(speech, told, strict=True)]
    return [[by_letters(row, said) for said in rows] if letters else rows for row, rows in pairs if row is not None]


def by_letters(row: Mapping[str, Any], said: Said) -> Said:
    """Put the letters of a spelled row in the place of phonemes; what was encoded stays as it is."""
    units, durations = np.array(row["units"], np.int16), np.array(row["durations"], np.int16)
    durations[0] = said.durations[0]  # the silence before a text was shortened
    waits = np.zeros_like(durations)
    waits[np.isin(units, (UNIT_EDGE, SPACE))] = said.waits[np.isin(said.units, (UNIT_EDGE, SPACE))]
    return replace(said, units=units, durations=durations, waits=waits)


def codec_of(out: Path, future: int) -> HeartCodec:
    """The codec as far as it is trained."""
    net = HeartNet(HeartSizes(voice_future=future))
    trained(out, f"decoder-{future}", {"voice": net.voice})
    trained(out, "quantiser", parts_of(net))
    return HeartCodec(net)


def prepared(codec: HeartCodec, speech: Sequence[Utterance], path: Path) -> list[list[Said]]:
    """Encode all texts, each without and with waits, or read what an earlier run has encoded."""
    if not path.exists():
        both = [(said(codec, one, None), said(codec, one, np.random.default_rng(n))) for n, one in enumerate(speech)]
        torch.save([[{k: torch.from_numpy(v) for k, v in vars(row).items()} for row in rows] for rows in both], path)
    kept = torch.load(path, weights_only=True)
    return [[Said(**{name: value.numpy() for name, value in row.items()}) for row in rows] for rows in kept]


@torch.no_grad()
def said(codec: HeartCodec, one: Utterance, dice: np.random.Generator | None) -> Said:
    """Shorten the silence before a text and encode it; with `dice`, put waits before some of its words."""
    units, durations, latents = np.array(one.row["units"]), np.array(one.row["durations"]), np.array(one.latents)
    cut = max(0, int(durations[0]) - EDGE)
    durations[0] -= cut
    latents = latents[cut:]
    waits = np.zeros_like(durations) if dice is None else drawn_waits(units, durations, dice)
    silence, starts = latents[:1], durations.cumsum() - durations
    pieces = [
        np.concatenate([silence.repeat(wait, 0), latents[start : start + length]])
        for wait, start, length in zip(waits, starts, durations, strict=True)
    ]
    still = from_hibari(torch.from_numpy(np.concatenate(pieces))).T
    still = torch.cat([still, still[:, -1:].expand(-1, -still.shape[1] % LATENTS_PER_STEP)], 1)[None]
    codes = codec.encode_latents(still)[0].numpy().astype(np.int16)
    wanted = codec.net.standardised(still)[0].numpy().astype(np.float16)
    return Said(units.astype(np.int16), durations.astype(np.int16), codes, wanted, waits.astype(np.int16))


def drawn_waits(units: np.ndarray, durations: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    """Draw waits before the text or some of its words, in latents; the word after each begins with a frame, as it does
    when text comes late."""
    waits = np.zeros_like(durations)
    places = np.concatenate([[0], (units == SPACE).nonzero()[0]])
    for unit in sorted(dice.permutation(places)[: dice.integers(1, MOST_WAITS + 1)]):
        frames = int(np.exp(dice.uniform(0, np.log(LONGEST_WAIT + 2)))) - 1  # short ones are more frequent
        before = int((durations[:unit] + waits[:unit]).sum())
        waits[unit] = LATENTS_PER_STEP * frames + -before % LATENTS_PER_STEP
    return waits


class SpeakerParts(nn.Module):
    """What a voice holds, and a layer that only training needs.

    Attributes:
        output_adapter: The speech decoder.
        audio_embeddings: Rows of the codes, which the heads read with as well.
        specials: (K, specials, W) of the audio streams.
        aside: From the decoder's states to the newest frame's latents: what a phoneme sounds like is learnt
            from these sooner than from codes.
    """

    def __init__(self, options: HeartSpeaker.Options | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        options = options or HeartSpeaker.Options()
        self.output_adapter = HeartSpeaker(options, ByteTokenizer(chat=False), TEXT_LEAD)
        std = 0.1 / LAYOUT.num_audio_streams**0.5
        self.audio_embeddings = AudioEmbeddings(LAYOUT, options.width, std)
        shape = (LAYOUT.num_audio_streams, LAYOUT.audio_special_slots, options.width)
        self.specials = nn.Parameter(torch.randn(shape) * std)
        self.aside = nn.Linear(options.width, NUM_LATENTS * LATENTS_PER_STEP)
        self.pattern = DelayPattern("delay", LAYOUT.num_audio_streams, LAYOUT.codebook_size, TEXT_LEAD)

    def load_voice(self, folder: Path) -> None:
        """Take the weights of a finished voice; the layer that only training needs stays new.

        Raises:
            SystemExit: a voice of another shape.
        """
        kept = {name: value.float() for name, value in load_file(folder / VOICE_WEIGHTS).items()}
        names = {"special_tokens.audio": "specials"}
        state = {names.get(name, name): value for name, value in kept.items()}
        state |= {f"aside.{name}": value for name, value in self.aside.state_dict().items()}
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise SystemExit(f"Error: '{folder}' holds another voice: {error}") from None

    def embed(self, tokens: Tensor) -> Tensor:
        """(B,K,T) -> (B,T,W), as a talker merges audio rows; pads are zero."""
        tables = torch.cat([self.audio_embeddings.weight, self.specials], 1)
        stream = torch.arange(tokens.shape[1])[:, None] * tables.shape[1]
        rows = F.embedding(tokens + stream, tables.flatten(0, 1))
        return rows.masked_fill((tokens == LAYOUT.pad_a)[..., None], 0.0).sum(1)


@dataclass(frozen=True)
class Batch:
    """Texts of like length.

    Attributes:
        units: (B, n + 16), as :meth:`HeartSpeaker.teach` takes them.
        durations: (B,n).
        waits: (B,n).
        tokens: (B,K,T) answer columns.
        is_said: (B,K,T) bool, codes and ends.
        latents: (B, 134, 4F).
        frames: (B,) of each text.
    """

    units: Tensor
    durations: Tensor
    waits: Tensor
    tokens: Tensor
    is_said: Tensor
    latents: Tensor
    frames: Tensor


def batch_of(rows: Sequence[Said], pattern: DelayPattern) -> Batch:
    """Pad texts to one length."""
    most = max(len(row.units) for row in rows)
    units = torch.full((len(rows), most + 1 + 2 * CONTEXT), PADDING)
    durations, waits = torch.zeros(2, len(rows), most + 1, dtype=torch.int64)
    frames = torch.tensor([row.codes.shape[1] for row in rows])
    columns = pattern.num_columns(int(frames.max()))
    tokens = torch.full((len(rows), LAYOUT.num_audio_streams, columns), LAYOUT.pad_a)
    is_said = torch.zeros(tokens.shape, dtype=torch.bool)
    latents = torch.zeros(len(rows), NUM_LATENTS, LATENTS_PER_STEP * int(frames.max()))
    for place, row in enumerate(rows):
        count = len(row.units)
        units[place, CONTEXT : CONTEXT + count] = torch.from_numpy(row.units.astype(np.int64))
        units[place, CONTEXT + count] = END
        durations[place, :count] = torch.from_numpy(row.durations.astype(np.int64))
        waits[place, :count] = torch.from_numpy(row.waits.astype(np.int64))
        grid, mask = pattern.apply(row.codes.astype(np.int64), LAYOUT)
        tokens[place, :, : grid.shape[1]] = torch.from_numpy(grid)
        is_said[place, :, : mask.shape[1]] = torch.from_numpy(mask)
        latents[place, :, : row.latents.shape[1]] = torch.from_numpy(row.latents.astype(np.float32))
    return Batch(units, durations, waits, tokens, is_said, latents, frames)


class SpeakerTraining:
    """One step: whole texts through the decoder.

    Args:
        parts: What is trained.
        rows: Texts, each without and with waits.
        held_out: Texts that nothing is learnt from.
        bf16: Whether products are taken in bfloat16.
        aside_steps: First steps in which the decoder learns nothing from the latents.
    """

    def __init__(
        self,
        parts: SpeakerParts,
        rows: Sequence[Sequence[Said]],
        held_out: Sequence[Sequence[Said]],
        bf16: bool,
        aside_steps: int,
    ) -> None:
        self.bf16, self.aside_steps = bf16, aside_steps
        self.parts, self.rows = parts, [row for row in rows if row[0].durations.max() <= LONGEST]
        kept = [[row[waits] for row in held_out[n : n + 16]] for waits in range(2) for n in range(0, len(held_out), 16)]
        self.held_out = [batch_of(rows, parts.pattern) for rows in kept]
        self.lengths = np.array([row[0].codes.shape[1] for row in self.rows])
        self._epochs: list[list[np.ndarray]] = []

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        dice = np.random.default_rng((1, step))
        rows = [self.rows[number][int(dice.random() < WAITING)] for number in self._numbers(step)]
        self.parts.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss, told = self.loss(batch_of(rows, self.parts.pattern), learns=True, aside=step >= self.aside_steps)
        if step % 200 == 0:
            told |= self.tested()
        return loss, told

    @torch.no_grad()
    def tested(self) -> dict[str, float]:
        """Losses of the held-out texts."""
        self.parts.eval()
        found: list[dict[str, float]] = [self.loss(batch, learns=False, aside=True)[1] for batch in self.held_out]
        return {f"held_out_{name}": float(np.mean([one[name] for one in found])) for name in found[0]}

    def loss(self, batch: Batch, learns: bool, aside: bool) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and its parts; without `aside` the decoder learns nothing from the latents."""
        parts = self.parts
        shifted = F.pad(batch.tokens, (1, 0), value=LAYOUT.pad_a)[..., :-1]
        audio = parts.embed(shifted)
        if learns:
            share = MOST_HIDDEN * torch.rand(len(audio), 1, 1)
            audio = audio * (torch.rand(*audio.shape[:2], 1) >= share)
        hidden, guessed = parts.output_adapter.teach(audio, batch.units, batch.durations, batch.waits)
        heard, total, told = batch.is_said, hidden.new_zeros(()), {}
        tables = torch.cat([parts.audio_embeddings.weight, parts.specials], 1).unbind()
        for stream, (table, weight) in enumerate(zip(tables, STREAM_WEIGHTS, strict=True)):
            which = heard[:, stream]
            logits = hidden[which] @ table.T
            wanted = batch.tokens[:, stream][which]
            one = F.cross_entropy(logits, wanted)
            total = total + weight * one / sum(STREAM_WEIGHTS)
            told[f"code{stream}"] = one.item()
            if stream in (0, 1, 3):
                told[f"right{stream}"] = float((logits.argmax(-1) == wanted).float().mean())
        is_unit = batch.units[:, CONTEXT:-CONTEXT] < END
        lasting = F.cross_entropy(guessed[is_unit], batch.durations[is_unit])
        told["duration"] = lasting.item()
        told["duration_right"] = float((guessed[is_unit].argmax(-1) == batch.durations[is_unit]).float().mean())
        from_latents = self._aside(hidden if aside else hidden.detach(), batch)
        told["latents"] = from_latents.item()
        return total + 0.3 * lasting + from_latents, told

    def _aside(self, hidden: Tensor, batch: Batch) -> Tensor:
        """How far the newest frame's latents are from what the states tell of them."""
        lead = self.parts.pattern.lag(0)
        most = int(batch.frames.max())
        made = self.parts.aside(hidden[:, lead : lead + most])  # (B, F, 4 * 134)
        wanted = batch.latents.unflatten(2, (most, LATENTS_PER_STEP)).permute(0, 2, 3, 1)
        errors = F.smooth_l1_loss(made.view_as(wanted), wanted, reduction="none") * WEIGHTS / WEIGHTS.mean()
        is_frame = torch.arange(most) < batch.frames[:, None]
        return errors[is_frame].mean()

    def _numbers(self, step: int) -> np.ndarray:
        """Which texts a step takes: each epoch all of them once, those of like length together."""
        epoch = 0
        while True:
            if epoch == len(self._epochs):
                self._epochs.append(self._cut(epoch))
            if step < len(self._epochs[epoch]):
                return self._epochs[epoch][step]
            step, epoch = step - len(self._epochs[epoch]), epoch + 1

    def _cut(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch."""
        dice = np.random.default_rng(epoch)
        order = np.argsort(self.lengths + dice.uniform(0, 8, len(self.lengths)))
        batches, now = [], []
        for number in order:
            if now and (len(now) + 1) * (self.lengths[number] + 12) > FRAMES_OF_BATCH:
                batches.append(np.array(now))
                now = []
            now.append(number)
        batches.append(np.array(now))
        dice.shuffle(batches)
        return batches


if __name__ == "__main__":
    main()
