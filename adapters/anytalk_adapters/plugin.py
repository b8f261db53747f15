"""The first-party parts around the backbone, offered through the same door as anybody's. No torch."""

from anytalk.plugins import Component, hookimpl


@hookimpl
def register_speech_encoders() -> list[Component]:
    """Ears."""
    return [
        Component("whisper", "anytalk_adapters.whisper_encoder:WhisperEncoder", "Whisper's encoder on the real length"),
        Component("hf", "anytalk_adapters.hf_encoder:HFEncoder", "any transformers audio encoder (HuBERT, WavLM ...)"),
        Component("tiny", "anytalk_adapters.tiny_encoder:TinyEncoder", "a seeded log-mel projection, for tests"),
    ]


@hookimpl
def register_input_adapters() -> list[Component]:
    """Encoder features to backbone embeddings."""
    return [
        Component("mlp", "anytalk_adapters.input_adapters:MlpAdapter", "two-layer MLP (the paper)"),
        Component("swiglu", "anytalk_adapters.input_adapters:SwigluAdapter", "gated MLP (released Mini-Omni)"),
        Component(
            "stack", "anytalk_adapters.input_adapters:StackAdapter", "stack frames, then an MLP: shorter prompts"
        ),
    ]


@hookimpl
def register_output_adapters() -> list[Component]:
    """Backbone states to what the audio heads read."""
    return [
        Component(
            "blocks", "anytalk_adapters.output_adapters:BlocksAdapter", "blocks of the backbone's own kind (the paper)"
        ),
        Component("none", "anytalk_adapters.output_adapters:NoAdapter", "nothing in between (released Mini-Omni)"),
    ]


@hookimpl
def register_heads() -> list[Component]:
    """Parallel audio heads."""
    return [
        Component("parallel", "anytalk_adapters.heads:ParallelHeads", "one fused matrix, K slices (the paper)"),
        Component("shared", "anytalk_adapters.heads:SharedHeads", "the audio embedding rows (released Mini-Omni)"),
    ]


@hookimpl
def register_codecs() -> list[Component]:
    """Mouths."""
    return [
        Component("snac", "anytalk_adapters.snac_codec:SnacCodec", "SNAC: 24 kHz, 7 codes per frame (the reference)"),
        Component(
            "spectral", "anytalk_adapters.spectral_codec:SpectralCodec", "SNAC's quantiser, spectral decoder: CPU"
        ),
        Component("tiny", "anytalk_adapters.tiny_codec:TinyCodec", "deterministic tones, for tests"),
    ]


@hookimpl
def register_synthesizers() -> list[Component]:
    """Engines that make training speech."""
    return [
        Component("piper", "anytalk_adapters.synthesizers:PiperSynthesizer", "Piper voices (GPL-3.0 engine, optional)"),
        Component("espeak", "anytalk_adapters.synthesizers:EspeakSynthesizer", "the program espeak-ng, when present"),
    ]


@hookimpl
def register_transcribers() -> list[Component]:
    """Judges."""
    return [
        Component("whisper", "anytalk_adapters.whisper_transcriber:WhisperTranscriber", "OpenAI Whisper, whole model")
    ]


@hookimpl
def register_tasks() -> list[Component]:
    """What goes in and what comes out."""
    return [
        Component("A1A2", "anytalk.grid.tasks:A1A2", "speech in, text and speech out"),
        Component("A1T2", "anytalk.grid.tasks:A1T2", "speech in, text out"),
        Component("A1T1", "anytalk.grid.tasks:A1T1", "speech in, its transcript out (ASR)"),
        Component("T1A2", "anytalk.grid.tasks:T1A2", "text in, text and speech out"),
        Component("T1T2", "anytalk.grid.tasks:T1T2", "text in, text out"),
        Component("T1A1", "anytalk.grid.tasks:T1A1", "text in, the same text spoken (TTS)"),
    ]


@hookimpl
def register_recipes() -> list[Component]:
    """Stages as data."""
    return [
        Component("paper", "anytalk_adapters.recipes:PAPER", "the paper's three stages and final annealing"),
        Component("demo", "anytalk_adapters.recipes:DEMO", "a few minutes on two cores: ears, then mouth"),
    ]


@hookimpl
def register_data_sources() -> list[Component]:
    """Readers of training rows."""
    return [Component("jsonl", "anytalk.data.manifest:JsonlSource", "a manifest: one JSON object per line")]
