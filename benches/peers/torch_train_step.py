"""One training step in PyTorch: forward, backward and AdamW on random tokens, in f32 on the CPU.

    python benches/peers/torch_train_step.py MODEL --threads 2
    python benches/peers/torch_train_step.py MODEL --threads 2 --checkpointing

MODEL is a folder with SmolLM2-135M (or another causal language model). The loss is the mean next-token cross-entropy over
all positions; gradients are not clipped. Prints one JSON line; times are wall-clock seconds of a whole step.
"""

import argparse
import sys
import time

import torch
from transformers import AutoModelForCausalLM

from measure import peak_rss_bytes, print_line, spread


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the checkpoint")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256, help="tokens in each row")
    parser.add_argument("--steps", type=int, default=7, help="timed steps (5 or more for a figure to quote)")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the first timed one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="recompute each block in the backward pass")
    parser.add_argument("--adamw", choices=["fused", "foreach"], default="fused")
    parser.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation=args.attention)
    model.config.use_cache = False
    model.train()
    if args.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, **{args.adamw: True})

    seconds = dict(step=[], forward=[], backward=[], optimiser=[])
    for step in range(args.warm_up + args.steps):
        tokens = torch.randint(0, model.config.vocab_size, (args.batch, args.length))
        start = time.perf_counter()
        loss = model(input_ids=tokens, labels=tokens).loss
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        end = time.perf_counter()
        print(f"step {step}: {end - start:.2f} s, loss {loss.item():.3f}", file=sys.stderr)
        if step >= args.warm_up:
            seconds["step"].append(end - start)
            seconds["forward"].append(forward - start)
            seconds["backward"].append(backward - forward)
            seconds["optimiser"].append(end - backward)

    print_line(
        dict(
            benchmark="train_step",
            engine="torch",
            parameters=sum(p.numel() for p in model.parameters()),
            dtype="f32",
            batch=args.batch,
            length=args.length,
            checkpointing=args.checkpointing,
            adamw=args.adamw,
            attention=args.attention,
            **{name: spread(values) for name, values in seconds.items()},
            peak_rss_bytes=peak_rss_bytes(),
        )
    )


if __name__ == "__main__":
    main()
