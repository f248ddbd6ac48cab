#!/bin/sh
# Makes the example gallery: four targets on one made-up corpus, an audit of each, a report and a leaderboard.
#
#     sh docs/examples/make.sh [FOLDER]
#
# Needs `pip install ".[demo]"`, no GPU and no model hub. What is finished is not done again. In float32, since most CPUs
# have no instructions for bfloat16, in which the model is saved, and take many times as long in it.
set -eu
FOLDER=${1:-gallery}
mkdir -p "$FOLDER"
cd "$FOLDER"

# 1. A base model and a corpus of 400 made-up support tickets; 200 more become the questions of the capability task.
spvmia demo-model smollm2
test -f tasks/demo_department.yaml || python - <<'PYTHON'
from pathlib import Path

from spvmia_plugin.demo.corpus import make_tickets, write_capability_task, write_corpus

tickets = make_tickets(600, seed=1)
Path("tasks").mkdir(exist_ok=True)
write_corpus(Path("corpus.jsonl"), tickets[:400])
write_capability_task(Path("tasks"), tickets[400:])
PYTHON

# 2. Three targets, trained on the same 100 records. The same seed deals out the same members in each of them.
target() {
    name=$1
    shift
    test -f "$name/mia_manifest.json" || spvmia finetune --model smollm2 --data corpus.jsonl --output "$name" \
        --members 100 --nonmembers 100 --prompts 100 --block-size 64 --batch-size 8 --dtype float32 "$@"
}
target lora-light --lora-rank 16 --lora-alpha 32 --lora-dropout 0 --lora-targets all-linear --lr 5e-4 --epochs 1
target lora-heavy --lora-rank 16 --lora-alpha 32 --lora-dropout 0 --lora-targets all-linear --lr 5e-4 --epochs 6
target full --method full --lr 5e-5 --epochs 3

# 3. The same attacks and the same capability task for each. The base saw none of the records: its row is the null.
TASKS=spv_mia_custom,spv_ez_mia_custom,spv_wbc_mia_custom,loss_mia_custom,zlib_mia_custom,min_k_mia_custom
TASKS=$TASKS,neighbour_mia_custom,lira_base_mia_custom,ez_mia_custom,wbc_mia_custom,demo_department
audit() {
    name=$1
    model=$2
    manifest=$3
    test -d "results/$name" || spvmia run --model hf --model_args "$model,dtype=float32" --tasks "$TASKS" --include_path tasks \
        --metadata "{\"mia_manifest\": \"$manifest\", \"mia_preset\": \"quick\", \"mia_self_prompts\": 100,
                     \"mia_log_text\": true, \"mia_cache_dir\": \"cache\"}" \
        --batch_size 16 --output_path "results/$name" --log_samples
}
audit base pretrained=smollm2 lora-light/mia_manifest.json
audit lora-light pretrained=smollm2,peft=lora-light lora-light/mia_manifest.json
audit lora-heavy pretrained=smollm2,peft=lora-heavy lora-heavy/mia_manifest.json
audit full pretrained=full full/mia_manifest.json

# 4. What people read.
spvmia report results/lora-heavy --output report.html
spvmia leaderboard base=results/base lora-light=results/lora-light lora-heavy=results/lora-heavy full=results/full \
    --compare recipes --capability demo_department --output leaderboard.html
