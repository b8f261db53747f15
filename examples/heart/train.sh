#!/bin/sh
# Make the codec `heart` from nothing: speech, decoder, codes, ear, weights. Stopped at any time, the same command goes on.
#     sh examples/heart/train.sh FOLDER [TEXTS]
# TEXTS: a folder of ordinary English, such as that of Debian's package fortunes. Needs hibari-tts==0.2.1, onnx, onnxruntime.
set -e
out=$1
texts=${2:-/usr/share/games/fortunes}
here=$(dirname "$0")
export PYTHONPATH="$here/../anytalk-heart:$PYTHONPATH" OMP_NUM_THREADS=1
future=${FUTURE:-14}
python "$here/make_speech.py" "$out/speech" --texts "$texts" --hours 8
python "$here/train_decoder.py" "$out/speech" "$out" --future "$future" --steps "${DECODER_STEPS:-1500}"
python "$here/train_quantiser.py" "$out/speech" "$out" --future "$future" --steps "${CODE_STEPS:-8000}"
python "$here/train_ear.py" "$out/speech" "$out" --future "$future" --steps "${EAR_STEPS:-4000}"
python "$here/assemble.py" "$out" "$out/heart.safetensors" --future "$future"
