"""What every peer script reports in the same way: the machine, the peak memory, the medians."""

import json
import platform
import resource
import statistics
from pathlib import Path

import torch
import transformers


def machine():
    """Processor, threads in use and versions, as a dict for the report."""
    names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return dict(
        processor=names[0] if names else platform.processor(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        transformers=transformers.__version__,
    )


def peak_rss_bytes():
    """Largest resident set of this process so far; loading the model counts too."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def spread(seconds):
    """Median, least and greatest of a list of times, and how many there are."""
    return dict(median_s=statistics.median(seconds), min_s=min(seconds), max_s=max(seconds), samples=len(seconds))


def print_line(report):
    print(json.dumps(report | machine()), flush=True)
