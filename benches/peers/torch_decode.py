"""Greedy generation in transformers, in f32 on the CPU, against the machine's memory bandwidth.

    python benches/peers/torch_decode.py MODEL --threads 1 --batch 1 16 --new-tokens 64

MODEL is a folder with SmolLM2-135M (or another causal language model). Every row has its own random prompt and no row
stops early. For each batch size `generate` is timed with 1 and with N new tokens: their difference over N - 1 is a
decode step, free of the prefill. Prints one JSON line. `bandwidth` is the best read rate over a 1 GiB f32 array with the
same threads; `bound_share` is the part of it that reading every weight once in each decode step explains.
"""

import argparse
import sys
import time

import torch
from transformers import AutoModelForCausalLM

from measure import peak_rss_bytes, print_line, spread


def read_bandwidth(repeats=7):
    """Bytes a second while summing 1 GiB of f32; the best of `repeats`."""
    array = torch.ones(2**28)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        array.sum()
        best = min(best, time.perf_counter() - start)
    return array.numel() * 4 / best


def time_generate(model, prompt, new_tokens):
    start = time.perf_counter()
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        pad_token_id=0,
    )
    seconds = time.perf_counter() - start
    assert out.shape == (prompt.shape[0], prompt.shape[1] + new_tokens), out.shape
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the checkpoint")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt", type=int, default=64, help="tokens in each prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens to generate for each row (at least 2)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls (5 or more for a figure to quote)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    args = parser.parse_args()
    if args.new_tokens < 2:
        parser.error("--new-tokens must be at least 2")

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    bandwidth = read_bandwidth()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation=args.attention)
    model.eval()
    weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())

    batches = {}
    for batch in args.batch:
        prompt = torch.randint(0, model.config.vocab_size, (batch, args.prompt))
        time_generate(model, prompt, 2)
        whole, first = [], []
        for repeat in range(args.repeats):
            whole.append(time_generate(model, prompt, args.new_tokens))
            first.append(time_generate(model, prompt, 1))
            print(f"batch {batch}, call {repeat}: {whole[-1]:.2f} s, of it prefill {first[-1]:.2f} s", file=sys.stderr)
        step = (spread(whole)["median_s"] - spread(first)["median_s"]) / (args.new_tokens - 1)
        batches[str(batch)] = dict(
            generate=spread(whole),
            prefill=spread(first),
            tokens_per_s=batch * args.new_tokens / spread(whole)["median_s"],
            decode_step_s=step,
            decode_tokens_per_s=batch / step,
            bound_share=weight_bytes / step / bandwidth,
        )

    print_line(
        dict(
            benchmark="decode",
            engine="transformers generate",
            parameters=sum(p.numel() for p in model.parameters()),
            dtype="f32",
            weight_bytes=weight_bytes,
            prompt=args.prompt,
            new_tokens=args.new_tokens,
            attention=args.attention,
            batches=batches,
            bandwidth_bytes_per_s=bandwidth,
            peak_rss_bytes=peak_rss_bytes(),
        )
    )


if __name__ == "__main__":
    main()
