#!/usr/bin/env bash
# README's pictures anew, of real output, into docs/: a plan, a run that failed, one that trains (about 3 minutes), and
# doctor where KUBECONFIG leads to a cluster. Needs kctl in PATH and the demo's inputs (python -m demo.inputs).
set -euo pipefail
cd "$(dirname "$0")/.."

shot() { # NAME COLUMNS SECONDS COMMAND...
	python -m demo.screenshot --width "$2" --seconds "$3" "docs/$1.svg" "${@:4}"
}

inputs=$PWD/.kctl
export KCTL_LOCAL=/tmp/kctl # in the picture of a failure stands a path: nobody's own
mkdir -p $KCTL_LOCAL
ln -sfn "$inputs/models" $KCTL_LOCAL/models
ln -sfn "$inputs/data" $KCTL_LOCAL/data
for run in shakespeare typo; do # what an earlier time left, if any
	kctl delete $run --local --outputs --yes 2>/dev/null || true
done

shot plan 82 60 kctl plan lora_di3_fast --compare lora_di3,lora_di3_best --items 72000 --mean-tokens 360

kctl submit demo --local --set name=typo --set train.model.path=SmolLM2-153M-Instruct
kctl wait typo --local --timeout 5m || true # that it fails is what is shown
shot explain 100 60 kctl explain typo --local

kctl submit demo --local --set name=shakespeare
until kctl status shakespeare --local -o json 2>/dev/null | grep -Eq '"step": ([6-9]|1[0-9])'; do sleep 5; done
shot top 98 8 kctl top --local # Ctrl-C leaves it

kctl cancel shakespeare --local
for run in shakespeare typo; do
	kctl delete $run --local --outputs --yes
done

[ -z "${KUBECONFIG:-}" ] || shot doctor 100 60 kctl doctor demo -n kctl
