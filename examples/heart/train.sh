#!/bin/sh
# Make the voice `heart` from nothing: speech, codec, speech decoder, voice folder. Stopped at any time, the same command goes on.
#     sh examples/heart/train.sh FOLDER [TEXTS]
#     QUICK=1 sh examples/heart/train.sh FOLDER    # all stages, a few steps each: shows that they fit together, not a voice
# TEXTS: a folder of ordinary English, such as that of Debian's package fortunes. Needs hibari-tts==0.2.1, onnx, onnxruntime.
# The stages took about two hours of one core with AVX-512 together, one by one. bfloat16 is used where the processor
# multiplies in it.
set -e
out=$1
texts=${2:-/usr/share/games/fortunes}
here=$(dirname "$0")
export PYTHONPATH="$here/../anytalk-heart:$PYTHONPATH" OMP_NUM_THREADS=1
future=${FUTURE:-14}
if [ -n "$QUICK" ]; then
    HOURS=${HOURS:-0.02} CODE_STEPS=${CODE_STEPS:-20} EAR_STEPS=${EAR_STEPS:-4} SPEAKER_STEPS=${SPEAKER_STEPS:-20}
fi
BF16=${BF16-$(grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null && echo --bf16)}
python "$here/make_speech.py" "$out/speech" --texts "$texts" --hours "${HOURS:-18}"
python "$here/train_decoder.py" "$out/speech" "$out" --future "$future" --steps "${DECODER_STEPS:-0}"
python "$here/train_quantiser.py" "$out/speech" "$out" --future "$future" --batch 16 --steps "${CODE_STEPS:-4500}"
python "$here/train_ear.py" "$out/speech" "$out" --future "$future" --steps "${EAR_STEPS:-1500}"
python "$here/assemble.py" "$out" "$out/heart.safetensors" --future "$future"
python "$here/train_speaker.py" "$out/speech" "$out" --future "$future" --steps "${SPEAKER_STEPS:-5500}" $BF16
python "$here/make_voice.py" "$out" "$out/voice" --codec "$out/heart.safetensors"
