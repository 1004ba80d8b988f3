#!/bin/bash
# run_benchmark.sh MODEL PORT ISL OSL CONC [PROMPT_MULTIPLIER=10] [PROFILE=0] [EXTRA FLAGS...]
# One point of `atom bench serve`: random prompts of ISL tokens, answers of OSL, CONC at once, CONC times
# PROMPT_MULTIPLIER in all. PROFILE=1 traces it. The result goes to $RESULT_DIR (default .).
set -u
case ${1:-} in -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit ;; esac
if [ $# -lt 5 ]; then "$0" --help >&2; exit 2; fi
model=$1 port=$2 isl=$3 osl=$4 conc=$5 multiplier=${6:-10} profile=${7:-0}
for name in port isl osl conc multiplier; do
  case ${!name} in '' | *[!0-9]*) echo "run_benchmark: $name: ${!name:-(empty)}: a whole number expected" >&2; exit 2 ;; esac
done
shift $(($# < 7 ? $# : 7))
here=$(cd "$(dirname "$0")" && pwd)
atom=${ATOM_BINARY:-$(command -v atom || echo "$here/../build/bin/atom")}
[ "$profile" = 1 ] && set -- --profile "$@"
exec "$atom" bench serve --model "$model" --backend vllm --base-url "http://localhost:$port" --dataset-name random \
  --random-input-len "$isl" --random-output-len "$osl" --random-range-ratio 0.8 --num-prompts $((conc * multiplier)) \
  --max-concurrency "$conc" --request-rate inf --ignore-eos --save-result --percentile-metrics ttft,tpot,itl,e2el \
  --result-dir "${RESULT_DIR:-.}" --result-filename "result_isl${isl}_osl${osl}_conc${conc}.json" "$@"
