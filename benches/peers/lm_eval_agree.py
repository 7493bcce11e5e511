"""Do candlewick and lm-evaluation-harness extract the same answers, strict and flexible?

    lm_eval --model hf --model_args pretrained=MODEL,dtype=float32 --tasks gsm8k_local --include_path tasks --limit 200
        --device cpu --batch_size 8 --log_samples --output_path OUT        # the task: lm_eval_gsm8k/gsm8k_local.yaml
    head -n 200 gsm8k_test.jsonl > first200.jsonl
    candlewick eval MODEL -b gsm8k=first200.jsonl --form base --shots-from gsm8k_train.jsonl --shots 5 --limit 256
        --stop Question: --output ours
    python benches/peers/lm_eval_agree.py OUT/*/samples_gsm8k_local_*.jsonl ours/lm_eval/samples_gsm8k.jsonl

Both files have a line for each problem and filter. Answers are compared after what the harness itself removes before
comparing (`,`, `$`, a final full stop). Prints one JSON line; exit status 1 below 99 %.
"""

import argparse
import json
import sys
from pathlib import Path

FILTERS = ["strict-match", "flexible-extract"]


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


def plain(answer):
    return answer.replace(",", "").replace("$", "").removesuffix(".").lower()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theirs")
    parser.add_argument("ours")
    args = parser.parse_args()
    theirs, ours = lines(args.theirs), lines(args.ours)
    report, is_good = dict(benchmark="extraction against lm-evaluation-harness"), True
    for name in FILTERS:
        their = {line["doc_id"]: line for line in theirs if line["filter"] == name}
        our = {int(line["doc"]["id"]): line for line in ours if line["filter"] == name}
        both = sorted(their.keys() & our.keys())
        same_prompt = sum(their[i]["arguments"]["gen_args_0"]["arg_0"] == our[i]["arguments"]["gen_args_0"]["arg_0"] for i in both)
        pairs = [(i, plain(their[i]["filtered_resps"][0]), plain(our[i]["filtered_resps"][0])) for i in both]
        for i, a, b in pairs:
            if a != b:
                print(f"{name}, problem {i}: theirs {a!r}, ours {b!r}", file=sys.stderr)
        same_text = sum(their[i]["resps"][0][0].strip() == our[i]["resps"][0][0].strip() for i in both)
        share = sum(a == b for _, a, b in pairs) / len(pairs)
        report[name] = dict(
            items=len(pairs),
            same_prompt=same_prompt,
            same_text=same_text,
            same_answer=share,
            accuracy_theirs=sum(their[i]["exact_match"] for i in both) / len(both),
            accuracy_ours=sum(our[i]["exact_match"] for i in both) / len(both),
        )
        is_good &= share >= 0.99
    print(json.dumps(report))
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
