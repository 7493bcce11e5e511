"""Do candlewick's greedy completions and transformers' agree, token by token?

    python benches/peers/agree.py MODEL OURS.jsonl THEIRS.jsonl

OURS is a samples file of `candlewick eval --temperature 0`, THEIRS the output of `greedy.py`. Completions are compared up
to the shorter limit. Where two first differ, transformers scores the common beginning without padding, and the gap
between its two largest logits is printed: a tie that rounding decides has a gap near 0. Prints one JSON line; the exit
status is 1 if fewer than 95 % are identical or a gap exceeds 1e-3.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from measure import print_line


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("ours")
    parser.add_argument("theirs")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    ours = {line["item"]: line for line in lines(args.ours)}
    identical, tokens, prompts, gaps = 0, 0, 0, []
    theirs = [line for line in lines(args.theirs) if line["item"] in ours]
    for their in theirs:
        our = ours[their["item"]]
        prompts += our["prompt"] == their["prompt"]
        width = min(len(our["ids"]), len(their["ids"]))
        at = next((i for i in range(width) if our["ids"][i] != their["ids"][i]), None)
        if at is None and len(our["ids"]) == len(their["ids"]):
            identical, tokens = identical + 1, tokens + width
            continue
        at = width if at is None else at
        with torch.no_grad():
            logits = model(torch.tensor([their["prompt_ids"] + their["ids"][:at]])).logits[0, -1]
        two = logits.topk(2)
        gap = (two.values[0] - two.values[1]).item()
        pair = [our["ids"][at] if at < len(our["ids"]) else None, their["ids"][at] if at < len(their["ids"]) else None]
        gaps.append(gap)
        print(f"{their['item']}: differs at token {at}: {pair}, top two {two.indices.tolist()}, gap {gap:.2e}", file=sys.stderr)
    share = identical / len(theirs)
    print_line(
        dict(
            benchmark="greedy agreement",
            completions=len(theirs),
            same_prompt=prompts,
            identical=identical,
            share=share,
            tokens=tokens,
            largest_gap=max(gaps, default=0.0),
            gaps=sorted(gaps),
        )
    )
    sys.exit(0 if share >= 0.95 and max(gaps, default=0.0) < 1e-3 and prompts == len(theirs) else 1)


if __name__ == "__main__":
    main()
