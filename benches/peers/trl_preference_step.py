"""Steps of TRL 1.16's DPOTrainer or SFTTrainer on the CPU, in f32: seconds, loss, gradient norm, tokens with padding, peak memory.

    python benches/peers/trl_preference_step.py MODEL ROWS dpo --threads 2 --batch 8 --steps 4 [--checkpointing]

ROWS is a JSONL file of plain text, `prompt`, `chosen`, `rejected` (or `prompt`, `completion`), taken in its order. The reference's log-probs
are computed before the first step. AdamW at 1e-6 without decay, clipping at norm 1, the rest as TRL has it, but that checkpointing is off unless asked for.
Prints one JSON line. Run by benches/preference_step.sh and benches/sft_packing.sh.
"""

import argparse
import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch
import trl
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from measure import peak_rss_bytes, print_line, spread
from trl_grpo_step import StepClock


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the checkpoint")
    parser.add_argument("rows", help="JSONL file")
    parser.add_argument("method", choices=["dpo", "sft"])
    parser.add_argument("--batch", type=int, default=8, help="pairs or rows of a step")
    parser.add_argument("--steps", type=int, default=4, help="timed steps")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before the first timed one")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--checkpointing", action="store_true", help="recompute each block in the backward pass")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    data = load_dataset("json", data_files=args.rows, split="train")
    steps = args.warm_up + args.steps
    own = {"dpo": dict(beta=0.1, precompute_ref_log_probs=True), "sft": dict(completion_only_loss=True, packing=False)}[args.method]
    config_class, base = {"dpo": (trl.DPOConfig, trl.DPOTrainer), "sft": (trl.SFTConfig, trl.SFTTrainer)}[args.method]
    if args.method == "sft":
        data = data.remove_columns([name for name in data.column_names if name not in ("prompt", "completion")])

    class InOrder(base):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            fp16=False,
            seed=0,
            max_steps=steps,
            per_device_train_batch_size=args.batch,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            adam_beta2=0.999,
            weight_decay=0.0,
            max_grad_norm=1.0,
            max_length=args.max_length,
            gradient_checkpointing=args.checkpointing,
            dataloader_pin_memory=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **own,
        )
        clock = StepClock()
        trainer = InOrder(model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock])
        trainer.remove_callback(PrinterCallback)
        tokens, collate = [], trainer.data_collator

        def counting(examples):
            batch = collate(examples)
            tokens.append(batch["input_ids"].numel())
            return batch

        trainer.data_collator = counting
        trainer.train()

    assert len(clock.logs) == len(clock.seconds) == steps
    timed = clock.seconds[args.warm_up :]
    print_line(
        dict(
            benchmark=f"{args.method}_step",
            engine="trl",
            trl=trl.__version__,
            parameters=sum(p.numel() for p in model.parameters()),
            dtype="f32",
            batch=args.batch,
            checkpointing=args.checkpointing,
            step=spread(timed),
            total_s=sum(timed),
            tokens=tokens[-args.steps :],
            loss=[float(log["loss"]) for log in clock.logs],
            grad_norm=[float(log["grad_norm"]) for log in clock.logs],
            peak_rss_bytes=peak_rss_bytes(),
        )
    )


if __name__ == "__main__":
    main()
