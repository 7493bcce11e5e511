"""The same run as benches/peers/preference_candlewick.toml in TRL: one JSON object a step.

Usage: python preference_trl.py MODEL PAIRS OUT [dpo|sft]
Order of the data, f32, no dropout, AdamW (0.9, 0.999), linear decay without warm-up, clipping at norm 1.
"""
import json
import sys

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

model_path, pairs, out = sys.argv[1:4]
method = sys.argv[4] if len(sys.argv) > 4 else "dpo"
tokenizer = AutoTokenizer.from_pretrained(model_path)
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
data = load_dataset("json", data_files=pairs, split="train")
common = dict(
    output_dir="trl-output", per_device_train_batch_size=2, num_train_epochs=1, learning_rate=5e-6,
    lr_scheduler_type="linear", warmup_steps=0, adam_beta2=0.999, weight_decay=0.0, max_grad_norm=1.0,
    logging_steps=1, report_to="none", save_strategy="no", bf16=False, fp16=False, use_cpu=True,
    gradient_checkpointing=False, max_length=128, seed=0, dataloader_pin_memory=False,
)
if method == "dpo":
    from trl import DPOConfig, DPOTrainer as Trainer
    config = DPOConfig(beta=0.1, precompute_ref_log_probs=True, **common)
else:
    from trl import SFTConfig, SFTTrainer as Trainer
    config = SFTConfig(completion_only_loss=True, packing=False, **common)
    data = data.map(lambda row: {"prompt": row["prompt"], "completion": row["chosen"]},
                    remove_columns=["chosen", "rejected"])


class InOrder(Trainer):
    def _get_train_sampler(self, *_):
        return torch.utils.data.SequentialSampler(self.train_dataset)


trainer = InOrder(model=model, args=config, train_dataset=data, processing_class=tokenizer)
trainer.train()
with open(out, "w") as file:
    for row in trainer.state.log_history:
        if "loss" in row:
            file.write(json.dumps({
                "step": row["step"], "loss": row["loss"], "margin": row.get("rewards/margins"),
                "accuracy": row.get("rewards/accuracies"), "grad_norm": row["grad_norm"],
                "logp_chosen": row.get("logps/chosen"), "logp_rejected": row.get("logps/rejected"),
            }) + "\n")
