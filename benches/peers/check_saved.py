"""Does a folder that candlewick saved load in transformers (or PEFT), and does it compute the same?

    python benches/peers/check_saved.py RUN/checkpoints/100 --prompt "What is 2 + 3?"
    python benches/peers/check_saved.py RUN/checkpoints/100 --base MODEL                    # a LoRA adapter
    python benches/peers/check_saved.py tests/fixtures/models/llama --prompt-tokens 1 5 6 \\
        --compare-logits tests/fixtures/models/llama/reference.safetensors --tolerance 1e-4

A folder with adapter_config.json is loaded with PEFT on --base (or on the base model its config names). The file for
--compare-logits holds pairs `tokens` and `logits`, or `tokens_0` and `logits_0` and so on: tokens [T], logits [T, V], of the
model with its adapter. Prints one JSON line with the number of parameters, a greedy continuation and the largest difference.
Exit status 1 if a weight was missing, unexpected or of another shape, or if the logits differ by more than the tolerance.
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from measure import print_line


def load_model(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    return model.eval(), {name: sorted(map(str, info[name])) for name in ("missing_keys", "unexpected_keys", "mismatched_keys")}


def load_adapter(folder, base):
    """The base with the adapter on it; PEFT only warns of adapter weights it did not find, so that warning is a finding."""
    from peft import PeftModel

    model, found = load_model(base)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(model, folder)
    found["missing_keys"] += [str(w.message) for w in caught if "missing" in str(w.message)]
    in_file = set(load_file(folder / "adapter_model.safetensors"))
    in_model = {name.replace(".default.", ".") for name, _ in model.named_parameters() if ".lora_" in name}
    found["missing_keys"] += sorted(in_model - in_file)
    found["unexpected_keys"] += sorted(in_file - in_model)
    return model.eval(), found


@torch.no_grad()
def largest_difference(model, path):
    stored = load_file(path)
    pairs = [(name, name.replace("tokens", "logits")) for name in sorted(stored) if name == "tokens" or name.startswith("tokens_")]
    if not pairs:
        sys.exit(f"no tensor `tokens` or `tokens_0` in `{path}`")
    worst = 0.0
    for tokens, logits in pairs:
        found = model(input_ids=stored[tokens].long()[None], use_cache=False).logits[0]
        worst = max(worst, (found.double() - stored[logits].double()).abs().max().item())
    return worst


@torch.no_grad()
def continue_greedily(model, tokenizer, args):
    if args.prompt_tokens:
        prompt = torch.tensor([args.prompt_tokens])
    elif tokenizer is not None:
        prompt = tokenizer(args.prompt, return_tensors="pt").input_ids
    else:
        sys.exit("there is no tokenizer in the folder: give --prompt-tokens")
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=args.new_tokens, pad_token_id=0)
    new = out[0, prompt.shape[1] :].tolist()
    return dict(tokens=new, text=None if tokenizer is None else tokenizer.decode(new))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, help="folder of the base model, for an adapter")
    parser.add_argument("--prompt", default="The capital of France is")
    parser.add_argument("--prompt-tokens", type=int, nargs="+", help="token ids instead of --prompt")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--compare-logits", type=Path, metavar="FILE", help="safetensors file with tokens and logits")
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest absolute difference of a logit")
    args = parser.parse_args()

    is_adapter = (args.folder / "adapter_config.json").exists()
    if is_adapter:
        named = json.loads((args.folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        model, found = load_adapter(args.folder, args.base or named)
    else:
        model, found = load_model(args.folder)
    with_tokenizer = [f for f in (args.folder, args.base) if f is not None and (f / "tokenizer.json").exists()]
    tokenizer = AutoTokenizer.from_pretrained(with_tokenizer[0]) if with_tokenizer else None

    difference = largest_difference(model, args.compare_logits) if args.compare_logits else None
    print_line(
        dict(
            check="saved",
            folder=str(args.folder),
            kind="adapter" if is_adapter else "model",
            parameters=sum(p.numel() for p in model.parameters()),
            adapter_parameters=sum(p.numel() for n, p in model.named_parameters() if ".lora_" in n),
            tokenizer=None if tokenizer is None else len(tokenizer),
            chat_template=tokenizer is not None and tokenizer.chat_template is not None,
            **found,
            continuation=continue_greedily(model, tokenizer, args),
            logits_difference=difference,
        )
    )
    if any(found.values()) or (difference is not None and not difference <= args.tolerance):
        sys.exit(1)


if __name__ == "__main__":
    main()
