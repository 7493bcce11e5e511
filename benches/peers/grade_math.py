"""Graders on labelled pairs of a gold and a completion: right, wrong acceptances, wrong refusals, pairs a second.

    python grade_math.py PAIRS.json --grader candlewick=PATH        # the program, built with --release
    python grade_math.py PAIRS.json --grader math-verify            # pip install math-verify
    python grade_math.py PAIRS.json --grader qwen=CHECKOUT          # QwenLM/Qwen2.5-Math
    python grade_math.py PAIRS.json --grader exact

PAIRS.json is tests/golden/math_pairs.json or a file like it: cases of `gold`, `pred`, `expected`, `tags`. Cases tagged
`policy` are told apart: their label depends on what one wants. Qwen's grader needs sympy 1.12, antlr4-python3-runtime 4.11.1,
regex, numpy and word2number; it evaluates text of the model as Python, so it runs in a process of its own that can write no
file, in an empty folder, and is killed after the limit. So does Math-Verify, whose own time-outs are switched off here.
Times are processor time of the grading alone (of candlewick: wall time, on one thread); a pair that is killed counts with the limit.
"""

import argparse
import json
import resource
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def math_verify_grader(_):
    from math_verify import parse, verify

    def grade(gold, completion):
        parsed = parse(f"${gold}$", parsing_timeout=None)
        return bool(verify(parsed, parse(completion, parsing_timeout=None), timeout_seconds=None))

    return grade


def qwen_grader(checkout):
    evaluation = Path(checkout) / "evaluation"
    sys.path[:0] = [str(evaluation), str(evaluation / "latex2sympy")]
    import types

    # `utils` of the checkout loads data sets; the graders need none of it.
    for name in ["datasets", "tqdm"]:
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["datasets"].load_dataset = sys.modules["datasets"].Dataset = None
    sys.modules["datasets"].concatenate_datasets = None
    sys.modules["tqdm"].tqdm = None
    import parser as answers
    from grader import math_equal

    def grade(gold, completion):
        answer = answers.strip_string(answers.extract_answer(completion, "math"))
        return bool(math_equal(answer, answers.strip_string(gold)))

    return grade


def exact_grader(_):
    def grade(gold, completion):
        start = completion.rfind("\\boxed{")
        return start >= 0 and completion[start + 7 : completion.rfind("}")].strip() == gold.strip()

    return grade


GRADERS = {"math-verify": math_verify_grader, "qwen": qwen_grader, "exact": exact_grader}


def work(name, argument):
    """The child: a pair a line in, a verdict and its seconds a line out."""
    out = sys.stdout
    sys.stdout = sys.stderr
    grade = GRADERS[name](argument)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        gold, completion = json.loads(line)
        started = time.process_time()
        try:
            verdict = grade(gold, completion)
        except BaseException as error:  # a grader that fails has not accepted
            verdict = type(error).__name__
        print(json.dumps([verdict, time.process_time() - started]), file=out, flush=True)


class Child:
    def __init__(self, name, argument):
        self.command = [sys.executable, str(Path(__file__).resolve()), "--worker", name, argument]
        self.folder = tempfile.TemporaryDirectory()
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            cwd=self.folder.name, env={"PATH": "/usr/bin:/bin"}, start_new_session=True,
        )
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"the grader does not start: {' '.join(self.command)}")

    def grade(self, gold, completion, limit):
        try:
            self.process.stdin.write(json.dumps([gold, completion]) + "\n")
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], limit)[0]:
                answer = self.process.stdout.readline()
                if answer:
                    return json.loads(answer)
            verdict = "killed"
        except BrokenPipeError:
            verdict = "died"
        self.process.kill()
        self.process.wait()
        self.start()
        return verdict, limit


def grade_all(name, argument, cases, limit):
    if name == "candlewick":
        with tempfile.TemporaryDirectory() as folder:
            pairs, verdicts = Path(folder) / "pairs.jsonl", Path(folder) / "verdicts.jsonl"
            pairs.write_text("".join(json.dumps(dict(gold=c["gold"], completion=c["pred"])) + "\n" for c in cases))
            subprocess.run(
                [argument, "grade", str(pairs), "--out", str(verdicts)], check=True, stdout=subprocess.DEVNULL,
                env={"RAYON_NUM_THREADS": "1"},
            )
            lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
        return [(line["correct"], line["micros"] / 1e6) for line in lines]
    child = Child(name, argument)
    found = []
    for at, case in enumerate(cases):
        found.append(child.grade(case["gold"], case["pred"], limit))
        if at % 100 == 99:
            print(f"{name}: {at + 1} of {len(cases)}", file=sys.stderr)
    child.process.stdin.close()
    child.process.wait()
    return found


def report(name, cases, found):
    def share(chosen):
        rows = [(c["expected"], verdict is True) for c, (verdict, _) in zip(cases, found) if chosen(c)]
        return dict(
            pairs=len(rows),
            right=sum(e == v for e, v in rows),
            wrong_acceptances=sum(v and not e for e, v in rows),
            wrong_refusals=sum(e and not v for e, v in rows),
        )

    seconds = sorted(s for _, s in found)
    is_policy = lambda case: "policy" in case["tags"]  # noqa: E731
    return dict(
        grader=name,
        plain=share(lambda c: not is_policy(c)),
        policy=share(is_policy),
        pairs_a_second=round(len(found) / sum(seconds), 1),
        median_ms=round(1e3 * seconds[len(seconds) // 2], 3),
        p99_ms=round(1e3 * seconds[len(seconds) * 99 // 100], 3),
        largest_ms=round(1e3 * seconds[-1], 3),
        failed=sum(isinstance(v, str) for v, _ in found),
    )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("pairs", type=Path)
    arguments.add_argument("--grader", action="append", required=True, metavar="NAME[=PATH]")
    arguments.add_argument("--limit", type=float, default=5.0, help="seconds before a pair is given up")
    arguments = arguments.parse_args()
    cases = json.loads(arguments.pairs.read_text())["cases"]
    for grader in arguments.grader:
        name, _, path = grader.partition("=")
        if name != "candlewick" and name not in GRADERS:
            raise SystemExit(f"unknown grader `{name}`: candlewick, {', '.join(GRADERS)}")
        path = str(Path(path).resolve()) if path else ""
        print(json.dumps(report(name, cases, grade_all(name, path, cases, arguments.limit))), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3])
    else:
        main()
