"""Pairs for the comparison with TRL: prompts as rendered text, so that both sides see the same tokens.

Usage: python preference_pairs.py MODEL DATA OUT [COUNT] [MAX_TOKENS]
DATA has the fields instruction, input, chosen, rejected, a JSON object a line. Pairs with equal or empty answers, or
longer than MAX_TOKENS (128), are left out; the first COUNT (40) are written.
"""
import json
import sys

from transformers import AutoTokenizer

model, data, out = sys.argv[1:4]
count = int(sys.argv[4]) if len(sys.argv) > 4 else 40
limit = int(sys.argv[5]) if len(sys.argv) > 5 else 128
tokenizer = AutoTokenizer.from_pretrained(model)
written = 0
with open(out, "w") as file:
    for line in open(data):
        row = json.loads(line)
        text = row["instruction"] + ("\n\n" + row["input"] if row.get("input") else "")
        prompt = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        chosen, rejected = row["chosen"] + "<|im_end|>", row["rejected"] + "<|im_end|>"
        longest = max(len(tokenizer(prompt + answer).input_ids) for answer in (chosen, rejected))
        if chosen == rejected or not row["chosen"].strip() or not row["rejected"].strip() or longest > limit:
            continue
        file.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")
        written += 1
        if written == count:
            break
print(f"{written} pairs")
