"""Tokens a second of transformers' `generate` for 16 samples of 20 problems of 128 tokens, in f32 on the CPU.

    python benches/peers/torch_eval_throughput.py MODEL gsm8k_test.jsonl --threads 2 --batch 16 32 64

Sampling at temperature 1, no row stops early, `num_return_sequences` sharing nothing (transformers repeats the prompt).
For each batch size `--batches` calls are timed; the figure is generated tokens over their time, prefill included.
"""

import argparse
import sys
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from greedy import gsm8k_prompts
from measure import print_line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("gsm8k")
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    rows = [text for _, text in gsm8k_prompts(tokenizer, args.gsm8k, 20) for _ in range(args.samples)]
    found = {}
    for size in args.batch:
        tokens, seconds = 0, 0.0
        for first in range(0, size * args.batches, size):
            batch = tokenizer(rows[first : first + size], return_tensors="pt", padding=True, add_special_tokens=False)
            start = time.perf_counter()
            with torch.no_grad():
                out = model.generate(
                    **batch, do_sample=True, temperature=1.0, top_k=0, min_new_tokens=args.new_tokens, max_new_tokens=args.new_tokens
                )
            seconds += time.perf_counter() - start
            tokens += out[:, batch["input_ids"].shape[1] :].numel()
        found[str(size)] = tokens / seconds
        print(f"batch {size}: {tokens} tokens in {seconds:.1f} s", file=sys.stderr, flush=True)
    print_line(dict(benchmark="evaluation throughput", engine="transformers generate", tokens_per_s=found))


if __name__ == "__main__":
    main()
