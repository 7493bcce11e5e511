"""One GRPO step in TRL 1.16 on the CPU, in f32: 4 prompts x 8 rollouts x 64 new tokens, then one update.

    python benches/peers/trl_grpo_step.py MODEL --threads 2 --steps 5

MODEL is a folder with SmolLM2-135M-Instruct (it needs a tokenizer with a chat template). Rollouts are sampled at
temperature 1 and none stops early, so every step does the same work. The reward is the completion's length in characters
over 100: all completions have the same number of tokens, but not of characters, so advantages are not zero. beta is 0
(no reference model), learning rate 1e-6, the rest as TRL has it, except that gradient checkpointing is off unless asked for.
Prints one JSON line; a step is timed from its beginning to its end, generation included.
"""

import argparse
import os
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from measure import peak_rss_bytes, print_line, spread

QUESTIONS = [
    "What is 17 + 25? Show your work.",
    "A train travels 60 km in 45 minutes. How fast is it in km/h?",
    "Name three prime numbers above 20 and say why they are prime.",
    "How many days are there in 7 weeks and 3 days?",
]


def length_reward(completions, **_):
    return [len(completion[0]["content"]) / 100 for completion in completions]


class StepClock(TrainerCallback):
    def __init__(self):
        self.seconds, self.logs = [], []

    def on_step_begin(self, args, state, control, **_):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.seconds.append(time.perf_counter() - self.start)
        print(f"step {state.global_step}: {self.seconds[-1]:.2f} s", file=sys.stderr)

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "grad_norm" in logs:
            self.logs.append(logs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the checkpoint")
    parser.add_argument("--prompts", type=int, default=4, choices=range(1, len(QUESTIONS) + 1))
    parser.add_argument("--rollouts", type=int, default=8, help="rollouts for each prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=8, help="rollouts in one forward and backward pass")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (5 or more for a figure to quote)")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the first timed one")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="recompute each block in the backward pass")
    args = parser.parse_args()
    rows = args.prompts * args.rollouts
    if rows % args.micro_batch:
        parser.error(f"--micro-batch must divide the {rows} rollouts of a step")

    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    questions = [[{"role": "user", "content": q}] for q in QUESTIONS[: args.prompts]]
    steps = args.warm_up + args.steps
    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            fp16=False,
            seed=0,
            max_steps=steps,
            per_device_train_batch_size=args.micro_batch,
            gradient_accumulation_steps=rows // args.micro_batch,
            num_generations=args.rollouts,
            max_completion_length=args.new_tokens,
            generation_kwargs={"min_new_tokens": args.new_tokens},
            temperature=1.0,
            beta=0.0,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            gradient_checkpointing=args.checkpointing,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        clock = StepClock()
        trainer = GRPOTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=length_reward,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": questions * steps}),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()

    assert len(clock.logs) == len(clock.seconds) == steps
    for log in clock.logs:
        assert float(log["completions/mean_length"]) == args.new_tokens, log
        assert float(log["reward_std"]) > 0, log
    print_line(
        dict(
            benchmark="grpo_step",
            engine="trl",
            trl=trl.__version__,
            parameters=sum(p.numel() for p in model.parameters()),
            dtype="f32",
            prompts=args.prompts,
            rollouts=args.rollouts,
            new_tokens=args.new_tokens,
            micro_batch=args.micro_batch,
            checkpointing=args.checkpointing,
            loss=config.loss_type,
            step=spread(clock.seconds[args.warm_up :]),
            grad_norm=[float(log["grad_norm"]) for log in clock.logs],
            reward=[float(log["reward"]) for log in clock.logs],
            peak_rss_bytes=peak_rss_bytes(),
        )
    )


if __name__ == "__main__":
    main()
