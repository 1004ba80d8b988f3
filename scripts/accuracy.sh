#!/usr/bin/env bash
# Measures a model's accuracy with lm-evaluation-harness 0.4.13, unmodified, against a server, on tasks from local
# files, and prints and writes the table: DIR/table.md, DIR/results.json, DIR/lm_eval.log. The harness is
# installed into .venv-accuracy on first use.
#
# accuracy.sh [--base-url URL | --model MODEL] [flags] [-- flags of lm_eval]
#   --base-url URL           a running server, such as http://127.0.0.1:8000
#   --model MODEL            serve this for the run: a directory, .gguf file or hub name (default: the demo model)
#   --tasks LIST             names joined by commas (default: all tasks of this repository the endpoint can answer)
#   --task-dir DIR           folder of task files; relative data_files are relative to it (tests/accuracy/tasks)
#   --endpoint NAME          completions, or chat, which generates only (completions)
#   --tokenized-requests B   True sends token ids, False texts (True; completions only)
#   --tokenizer WHICH        remote: the server's; none; or a directory of a Hugging Face tokenizer (remote)
#   --num-concurrent N       requests at once (64)
#   --max-retries N          tries of a request (3)
#   --batch-size N           prompts in a request (1)
#   --num-fewshot N          examples before a question (what the task says)
#   --limit N                questions of each task (all)
#   --output DIR             where to write (build/accuracy)
#   --online                 let the harness fetch data sets; without it nothing but the server is asked
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac

fail() { echo "accuracy: $*" >&2; exit 1; }
usage() { echo "accuracy: $*; see accuracy.sh --help" >&2; exit 2; }

here=$(cd "$(dirname "$0")/.." && pwd)
base_url='' model='' tasks='' task_dir=$here/tests/accuracy/tasks endpoint=completions tokenized=True tokenizer=remote
num_concurrent=64 max_retries=3 batch_size=1 num_fewshot='' limit='' output=$here/build/accuracy online=no
while [ $# -gt 0 ]; do
  flag=$1
  case $flag in
    --) shift; break ;;
    --online) online=yes; shift; continue ;;
    --base-url | --model | --tasks | --task-dir | --endpoint | --tokenized-requests | --tokenizer | --output) ;;
    --num-concurrent | --max-retries | --batch-size | --num-fewshot | --limit)
      case ${2:-} in '' | *[!0-9]*) usage "$flag: ${2:-(nothing)}: a whole number expected" ;; esac ;;
    *) usage "$flag: unknown flag" ;;
  esac
  [ -n "${2:-}" ] || usage "$flag: a value expected"
  case $flag in
    --task-dir) task_dir=$2 ;;
    --tokenized-requests) tokenized=$2 ;;
    *) name=${flag#--}; printf -v "${name//-/_}" %s "$2" ;;
  esac
  shift 2
done
[ -z "$base_url" ] || [ -z "$model" ] || usage "--base-url and --model exclude each other"
[ -d "$task_dir" ] || usage "--task-dir: $task_dir: no such directory"
case $endpoint in completions | chat) ;; *) usage "--endpoint: $endpoint: completions or chat expected" ;; esac
case $tokenized in True | False) ;; *) usage "--tokenized-requests: $tokenized: True or False expected" ;; esac
case $tokenizer in
  remote | none) ;;
  *) [ -d "$tokenizer" ] || usage "--tokenizer: $tokenizer: remote, none or a directory expected"
     tokenizer=$(cd "$tokenizer" && pwd) ;;
esac
[ "$tokenizer" != none ] || tokenized=False
if [ -z "$tasks" ]; then
  [ "$task_dir" -ef "$here/tests/accuracy/tasks" ] || usage "--task-dir without --tasks"
  tasks=atom_short_answers
  [ "$endpoint" = chat ] || [ "$tokenizer" = none ] || tasks=atom_facts,atom_last_words,atom_texts,$tasks
fi

venv=$here/.venv-accuracy
"$here/scripts/venv.sh" tests/accuracy/requirements.txt "$venv" ||
  fail "the evaluation harness could not be installed (tests/accuracy/requirements.txt)"

known_task() { # a name of the folder, of the harness, or a pattern or file, which the harness looks up
  case $1 in *[*?/]* | *.yaml) return ;; esac
  grep -rqsE --include='*.y*ml' "^(( *- *)?(task|group|tag): *|  *- *)[\"']?$1[\"']? *$" "$task_dir" \
    "$venv"/lib/python3*/site-packages/lm_eval/tasks
}
for task in ${tasks//,/ }; do
  known_task "$task" || fail "no task $task in $task_dir or the harness; there are:" \
    "$(sed -nE 's/^task: *//p' "$task_dir"/*.yaml 2>/dev/null | sort | paste -sd ' ')"
done

mkdir -p "$output"
output=$(cd "$output" && pwd)
rm -rf "$output"/{table.md,results.json,lm_eval.log,server.log,samples}
scratch=$(mktemp -d)
server=''
cleanup() {
  [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" || true; }
  rm -rf "$scratch"
}
trap cleanup EXIT

if [ -z "$base_url" ]; then
  atom=${ATOM_BINARY:-$here/build/bin/atom}
  [ -x "$atom" ] || fail "no program at $atom: run make build"
  model=${model:-${ATOM_DEMO_MODEL:-$("$here/scripts/fetch_demo_model.sh")}}
  : >"$output/server.log"  # there before the first look at it
  "$atom" serve --model "$model" --host 127.0.0.1 --server-port 0 >"$output/server.log" 2>&1 &
  server=$!
  until base_url=$(sed -n 's|.*ready: \(http://[^ ]*\)/v1.*|\1|p' "$output/server.log") && [ -n "$base_url" ]; do
    kill -0 "$server" 2>/dev/null || fail "the server did not start: $(tail -n 1 "$output/server.log")"
    sleep 0.1
  done
fi
base_url=${base_url%/}
base_url=${base_url%/v1}
served=$(curl -sf --max-time 20 -H "Authorization: Bearer ${OPENAI_API_KEY:-}" "$base_url/v1/models" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["data"][0]["id"])' 2>/dev/null) ||
  fail "no OpenAI server answers at $base_url"

arguments="model=$served,num_concurrent=$num_concurrent,max_retries=$max_retries"
if [ "$endpoint" = chat ]; then
  kind=local-chat-completions
  arguments+=",base_url=$base_url/v1/chat/completions"
  set -- --apply_chat_template "$@"
else
  kind=local-completions
  arguments+=",base_url=$base_url/v1/completions,tokenized_requests=$tokenized"
  case $tokenizer in
    remote | none) arguments+=",tokenizer_backend=${tokenizer/none/None}" ;;
    *) arguments+=",tokenizer_backend=huggingface,tokenizer=$tokenizer" ;;
  esac
fi
[ -z "$num_fewshot" ] || set -- --num_fewshot "$num_fewshot" "$@"
[ -z "$limit" ] || set -- --limit "$limit" "$@"
[ "$online" = yes ] || export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
export TOKENIZERS_PARALLELISM=false

# The harness reads relative paths of a task from its own working directory.
if ! (cd "$task_dir" && "$venv/bin/lm_eval" run --model $kind --model_args "$arguments" --tasks "$tasks" \
  --batch_size "$batch_size" --include_path . --output_path "$scratch" --log_samples "$@") >"$output/lm_eval.log" 2>&1; then
  fail "the harness failed ($output/lm_eval.log): $(grep -vE '^ *$|^Requesting API' "$output/lm_eval.log" | tail -n 1)"
fi
mv "$scratch"/*/results_*.json "$output/results.json"
mkdir "$output/samples"
mv "$scratch"/*/samples_*.jsonl "$output/samples/"

python3 - "$output" "$endpoint" "$arguments" <<'PY'
import json, pathlib, sys
folder, endpoint, arguments = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
results = json.loads((folder / "results.json").read_text())
log = (folder / "lm_eval.log").read_text(errors="replace")
again = log.count("API request failed") + log.count("Exception:")
lines = [f"{results['model_name']}, lm-evaluation-harness {results['lm_eval_version']}, {endpoint}: {arguments}", "",
         "| Task | Questions | Examples | Metric | Better | Value | Standard error |",
         "|---|---:|---:|---|---|---:|---:|"]
for task, values in sorted(results["results"].items()):
    for key in sorted(k for k in values if "," in k and "_stderr," not in k):
        metric, which = key.split(",")
        error = values.get(f"{metric}_stderr,{which}")
        better = {True: "higher", False: "lower"}.get(results["higher_is_better"].get(task, {}).get(metric), "")
        count = results["n-samples"].get(task, {}).get("effective", "")
        lines.append(f"| {task} | {count} | {results['n-shot'].get(task, '')} | {metric} | {better} | {values[key]:.4f} | "
                     f"{f'{error:.4f}' if isinstance(error, float) else ''} |")
lines += ["", f"{float(results['total_evaluation_time_seconds']):.1f} s, {again} requests tried again"]
(folder / "table.md").write_text("\n".join(lines) + "\n")
print("\n".join(lines))
PY
echo "accuracy: $output"
