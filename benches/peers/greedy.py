"""Greedy completions of transformers in f32 on the CPU, for a token-by-token comparison with `candlewick eval`.

    python benches/peers/greedy.py MODEL THEIRS.jsonl --gsm8k gsm8k_test.jsonl --problems 200      # prompts made here
    python benches/peers/greedy.py MODEL THEIRS.jsonl --prompts OURS.jsonl                         # prompts as we sent them
    python benches/peers/agree.py MODEL OURS.jsonl THEIRS.jsonl                                    # the figures

With `--gsm8k` problems are chosen and rendered independently of candlewick: those with the least SHA-256 of their place
in the file, through `apply_chat_template`, with the instruction of `WORDINGS[0]`. With `--prompts` the texts are those of
one of our samples files. Each line of THEIRS holds item, prompt, prompt ids and completion ids; lines that are there
already are kept, so a stopped script goes on. Rows are padded on the left and masked, as `generate` wants them.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]


def gsm8k_prompts(tokenizer, path, problems):
    records = lines(path)
    order = sorted(range(len(records)), key=lambda i: (hashlib.sha256(str(i).encode()).digest()[:8], i))
    for i in sorted(order[:problems]):
        text = records[i]["question"].strip() + "\n\n" + INSTRUCTION
        chat = [{"role": "user", "content": text}]
        yield str(i), tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("output")
    parser.add_argument("--gsm8k")
    parser.add_argument("--prompts")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    eos = model.generation_config.eos_token_id
    eos = set(eos if isinstance(eos, list) else [eos])

    if args.prompts:
        wanted = list({line["item"]: line["prompt"] for line in lines(args.prompts)}.items())
    else:
        wanted = list(gsm8k_prompts(tokenizer, args.gsm8k, args.problems))
    done = {line["item"] for line in lines(args.output)} if Path(args.output).exists() else set()
    # Prompts of like length share a batch, so that little is padded.
    rest = [(item, text, tokenizer(text, add_special_tokens=False)["input_ids"]) for item, text in wanted if item not in done]
    rest.sort(key=lambda row: len(row[2]))
    with open(args.output, "a") as out:
        for first in range(0, len(rest), args.batch):
            rows, start = rest[first : first + args.batch], time.perf_counter()
            batch = tokenizer.pad({"input_ids": [ids for *_, ids in rows]}, return_tensors="pt")
            with torch.no_grad():
                made = model.generate(**batch, do_sample=False, max_new_tokens=args.new_tokens)
            made = made[:, batch["input_ids"].shape[1] :].tolist()
            for (item, text, prompt), ids in zip(rows, made):
                end = next((at + 1 for at, token in enumerate(ids) if token in eos), len(ids))
                out.write(json.dumps(dict(item=item, prompt=text, prompt_ids=prompt, ids=ids[:end])) + "\n")
            out.flush()
            print(f"{first + len(rows)} of {len(rest)}, {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
