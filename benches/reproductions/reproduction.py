"""What the reproductions share: runs that can be stopped and gone on with, means with intervals, tables and figures.

A reproduction is `python3 benches/reproductions/NAME.py PROGRAM FOLDER`, from the repository's root. It makes the runs that FOLDER lacks,
prints its table as Markdown and writes its figure to docs/figures/. Environment: SEEDS (5), JOBS (runs side by side, 2), CHUNK (seconds after
which the script stops the run it is at and ends with exit status 75; the same command goes on). Each run has one thread.
"""

import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

STARTED, CHUNK = time.monotonic(), float(os.environ.get("CHUNK", "inf"))
SEEDS = range(int(os.environ.get("SEEDS", "5")))
ENV = {**os.environ, "RAYON_NUM_THREADS": "1"}
FIGURES = pathlib.Path("docs/figures")
# Quantiles of Student's t at 0.975 by degrees of freedom.
T975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
QUIET = {
    "run.save_every": 20,
    "run.keep_last": 1,
    "run.keep_best": "false",
    "run.log_samples": 0,
    "run.tensorboard": "false",
    "eval.every": 0,
}


def arguments():
    if len(sys.argv) != 3:
        sys.exit(f"usage: python3 {sys.argv[0]} PROGRAM FOLDER")
    folder = pathlib.Path(sys.argv[2]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return str(pathlib.Path(sys.argv[1]).resolve()), folder


def flags(settings):
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def limited(command, log):
    """Exit status of a command, which is interrupted when the chunk is over; ends the script where none of it is left."""
    left = CHUNK - (time.monotonic() - STARTED)
    if left < 5:
        sys.exit(75)
    stop = ["timeout", "-s", "INT", f"{left:.0f}"] if math.isfinite(left) else []
    with open(log, "a") as file:
        status = subprocess.run([*stop, *command], stdout=file, stderr=file, env=ENV).returncode
    if status == 130:  # stopped by a Ctrl-C that was meant for this script too
        sys.exit(130)
    if status not in (0, 124):
        raise RuntimeError(f"{log}: exit status {status}")
    return status


def train(program, folder, name, config, settings):
    """Runs `folder/name`, or goes on with it, unless it is done. Raises where the program fails."""
    run = folder / name
    while not (run / "done").exists():
        saved = any((run / "checkpoints").glob("[0-9]*")) if run.exists() else False
        if run.exists() and not saved:
            shutil.rmtree(run)
        own = {"run.output": folder, "run.name": name}
        command = [program, "train", str(config), *flags({**QUIET, **settings, **own}), *(["--resume"] if saved else [])]
        status = limited(command, f"{run}.log")
        # Programs before the exit status 130 end with 0 where a run was interrupted; its log says so.
        was_stopped = pathlib.Path(f"{run}.log").read_text()[-200:].rstrip().endswith("and `--resume`")
        if status == 0 and was_stopped:
            sys.exit(130)
        if status == 0:
            (run / "done").touch()
    return run


def command(program, *words, output):
    """Any other command of the program that goes on where it stopped, unless it is done."""
    done = pathlib.Path(f"{output}.done")
    while not done.exists():
        if limited([program, *map(str, words)], f"{output}.log") == 0:
            done.touch()
    return output


def sweep(program, folder, arms, seeds=SEEDS, keep=False):
    """All seeds of all arms, {arm: (config, settings or a function of the seed)}; returns {arm: {seed: run folder}}."""
    jobs = [(arm, seed) for seed in seeds for arm in arms]

    def one(job):
        arm, seed = job
        config, settings = arms[arm]
        settings = settings(seed) if callable(settings) else settings
        run = train(program, folder, f"{arm}-{seed}", config, {**settings, "run.seed": seed})
        if not keep:
            shutil.rmtree(run / "checkpoints", ignore_errors=True)

    with ThreadPoolExecutor(int(os.environ.get("JOBS", "2"))) as pool:
        for result in [pool.submit(one, job) for job in jobs]:
            result.result()
    return {arm: {seed: folder / f"{arm}-{seed}" for seed in seeds} for arm in arms}


def rows(run):
    return [json.loads(line) for line in open(run / "metrics.jsonl")]


def series(run, metric):
    return [row.get(metric, math.nan) for row in rows(run)]


def mean(values):
    values = [v for v in values if not math.isnan(v)]
    return sum(values) / len(values) if values else math.nan


def benchmark(run, name="validation"):
    """The final figures of a benchmark: `accuracy`, `pass_at`, ... as report/summary.json has them."""
    return json.load(open(run / "report" / "summary.json"))["benchmarks"][name]["final"]


def results(run, name="validation", base=False):
    """The whole results of a benchmark from report/report.json, of the trained model or of the base."""
    report = json.load(open(run / "report" / "report.json"))
    entry = next(entry for entry in report["benchmarks"] if entry["data"]["benchmark"] == name)
    return entry["against"][0]["results"] if base else entry["results"]


def passing(k, base=False):
    """Unbiased pass@k, as a function of a run."""
    return lambda run: next(at["estimate"]["value"] for at in results(run, base=base)["pass"] if at["k"] == k)


def pass_curve(of, most=5, base=False):
    """pass@k for k = 1, 2, 4, ... over seeds, with the exponent as abscissa."""
    return [(at, *interval([passing(2**at, base)(run) for run in of.values()])) for at in range(most + 1)]


def interval(values):
    """Mean and half width of the 95 % interval by Student's t."""
    n = len(values)
    middle = sum(values) / n
    if n < 2:
        return middle, math.nan
    deviation = math.sqrt(sum((v - middle) ** 2 for v in values) / (n - 1))
    return middle, T975[n - 1] * deviation / math.sqrt(n)


def table(runs, figures, against):
    """Markdown: a row an arm, a column a figure ({title: function of a run}); below, differences from `against` paired by seed."""
    values = {arm: {title: {s: f(run) for s, run in of.items()} for title, f in figures.items()} for arm, of in runs.items()}
    lines = ["| | " + " | ".join(figures) + " |", "| --- |" + " --- |" * len(figures)]
    for arm in runs:
        cells = []
        for title in figures:
            known = [v for v in values[arm][title].values() if not math.isnan(v)]
            cells.append("{:.3f} ± {:.3f}".format(*interval(known)) if known else "")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    pairs = [(arm, base) for base in ([against] if isinstance(against, str) else against) for arm in runs if arm != base]
    for arm, base in pairs:
        cells = []
        for title in figures:
            a, b = values[arm][title], values[base][title]
            both = [a[s] - b[s] for s in a if s in b and not math.isnan(a[s] - b[s])]
            if both:
                middle, half = interval(both)
                cells.append(f"{middle:+.3f} [{middle - half:+.3f}, {middle + half:+.3f}]")
            else:
                cells.append("")
        lines.append(f"| {arm} - {base} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def band(of, metric):
    """Mean and half width over seeds at each step: [(step, mean, half)]."""
    every = [series(run, metric) for run in of.values()]
    points = []
    for step in range(min(map(len, every))):
        known = [s[step] for s in every if not math.isnan(s[step])]
        if known:
            points.append((step + 1, *interval(known)))
    return points


def smooth(points, width=5):
    """Running means of a band, to be read as a trend."""
    out = []
    for at in range(len(points)):
        near = points[max(0, at - width + 1) : at + 1]
        out.append((points[at][0], *(sum(p[i] for p in near) / len(near) for i in (1, 2))))
    return out


COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555", "#882255", "#8a8d0f"]


class Panel:
    """One pair of axes: lines with bands, points, bars with intervals."""

    def __init__(self, title, x, y):
        self.title, self.x, self.y = title, x, y
        self.items, self.names, self.levels = [], [], []
        self.ticks = None

    def colour(self, name):
        if name not in self.names:
            self.names.append(name)
        return COLOURS[self.names.index(name) % len(COLOURS)]

    def line(self, name, points, dashed=False):
        self.items.append(("line", self.colour(name), [(*p, 0.0)[:3] for p in points], dashed))

    def dots(self, name, points):
        self.items.append(("dots", self.colour(name), [(*p, 0.0)[:3] for p in points], False))

    def bars(self, name, at, value, half):
        self.items.append(("bar", self.colour(name), [(at, value, half)], False))

    def level(self, value, text):
        self.levels.append((value, text))

    def svg(self, left, top, width, height):
        points = [p for _, _, ps, _ in self.items for p in ps]
        low, high = min(p[0] for p in points), max(p[0] for p in points)
        ys = [v for p in points for v in (p[1] - p[2], p[1] + p[2])] + [v for v, _ in self.levels]
        bottom, upper = min(ys), max(ys)
        is_bars = any(kind == "bar" for kind, *_ in self.items)
        if is_bars:
            low, high, bottom = low - 0.6, high + 0.6, min(0.0, bottom)
        if high == low:
            low, high = low - 1, high + 1
        margin = (upper - bottom or 1.0) * 0.06
        upper += margin
        bottom -= 0 if is_bars and bottom == 0 else margin
        sx = lambda v: left + (v - low) / (high - low) * width
        sy = lambda v: top + height - (v - bottom) / (upper - bottom) * height
        out = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>']
        for tick in nice(bottom, upper):
            out.append(f'<line x1="{left}" x2="{left + width}" y1="{sy(tick):.1f}" y2="{sy(tick):.1f}" stroke="#ddd"/>')
            out.append(f'<text x="{left - 5}" y="{sy(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for tick, text in self.ticks or [(t, f"{t:g}") for t in nice(low, high)]:
            out.append(f'<text x="{sx(tick):.1f}" y="{top + height + 15}" text-anchor="middle">{text}</text>')
        for value, text in self.levels:
            out.append(f'<line x1="{left}" x2="{left + width}" y1="{sy(value):.1f}" y2="{sy(value):.1f}" stroke="#000" stroke-dasharray="2 3"/>')
            out.append(f'<text x="{left + width - 4}" y="{sy(value) - 4:.1f}" text-anchor="end">{text}</text>')
        for kind, colour, ps, dashed in self.items:
            if kind == "bar":
                for at, value, half in ps:
                    y0, y1 = sorted((sy(value), sy(max(0.0, bottom))))
                    out.append(f'<rect x="{sx(at - 0.35):.1f}" y="{y0:.1f}" width="{sx(0.7) - sx(0):.1f}" height="{max(y1 - y0, 0.5):.1f}" fill="{colour}" fill-opacity="0.75"/>')
                    out.append(f'<path d="M{sx(at):.1f} {sy(value - half):.1f}V{sy(value + half):.1f}" stroke="#000"/>')
            elif kind == "dots":
                out += [f'<circle cx="{sx(x):.1f}" cy="{sy(y):.1f}" r="2.2" fill="{colour}" fill-opacity="0.6"/>' for x, y, _ in ps]
            else:
                if any(p[2] for p in ps):
                    edge = [(x, y + h) for x, y, h in ps] + [(x, y - h) for x, y, h in reversed(ps)]
                    out.append(f'<path d="M{"L".join(f"{sx(x):.1f} {sy(y):.1f}" for x, y in edge)}Z" fill="{colour}" fill-opacity="0.15"/>')
                path = "L".join(f"{sx(x):.1f} {sy(y):.1f}" for x, y, _ in ps)
                out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.6"{" stroke-dasharray=%s" % chr(34) + "5 3" + chr(34) if dashed else ""}/>')
        out.append(f'<text x="{left + width / 2}" y="{top - 8}" text-anchor="middle" font-weight="bold">{self.title}</text>')
        out.append(f'<text x="{left + width / 2}" y="{top + height + 31}" text-anchor="middle">{self.x}</text>')
        middle = top + height / 2
        out.append(f'<text x="{left - 42}" y="{middle}" text-anchor="middle" transform="rotate(-90 {left - 42} {middle})">{self.y}</text>')
        at, row = left, top + height + 40
        for name in self.names:
            size = 26 + 6.3 * len(name)
            if at > left and at + size > left + width + 40:
                at, row = left, row + 15
            out.append(f'<rect x="{at:.1f}" y="{row}" width="10" height="10" fill="{self.colour(name)}"/>')
            out.append(f'<text x="{at + 14:.1f}" y="{row + 9}">{name}</text>')
            at += size
        self.bottom = row + 20
        return "\n".join(out)


def nice(low, high):
    raw = (high - low) / 5
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, int(math.floor(high / step)) + 1)]


def figure(name, panels, width=330, height=200):
    """Writes docs/figures/NAME.svg with the panels side by side."""
    full = (width + 80) * len(panels) + 10
    body = "\n".join(panel.svg(60 + (width + 80) * at, 30, width, height) for at, panel in enumerate(panels))
    FIGURES.mkdir(parents=True, exist_ok=True)
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{full}" height="{max(panel.bottom for panel in panels)}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )
    (FIGURES / f"{name}.svg").write_text(text)
