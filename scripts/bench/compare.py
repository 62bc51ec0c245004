"""spoken and faster-whisper on the same files, weights and settings: one run of either, as (Run).

Both are measured end to end, from files on disk to text in memory, the loading of the model not counted. Each run is a fresh process.
"""
import dataclasses
import json
import os
import pathlib
import re
import subprocess
import tempfile

from common import CACHE, MODEL, REPO, environment, faster_whisper_python, hour_corpus, mixed_corpus, say, short_corpus, truth_of
from common import word_error_rate

RUNNER = REPO / "scripts/bench/faster_whisper_runner.py"
TIMING = ("tiny", "base", "small", "medium", "large-v2", "large-v3", "distil-large-v3", "large-v3-turbo")


@dataclasses.dataclass
class Run:
    """How one run went."""
    seconds: float
    texts: dict          # file name: [{"start", "end", "text", "words": [[word, start, end]], "window"}], in seconds
    languages: dict      # file name: code
    peak_rss: int        # bytes, of all processes together
    load_seconds: float
    figures: dict        # of spoken the object `median` of `spoken bench --json`; of the other its windows

    def windows(self):
        """How many windows the model was given to decode, second tries included."""
        return self.figures["windows"]

    def plain(self):
        return {name: " ".join(s["text"] for s in segments) for name, segments in self.texts.items()}


def model_path(name):
    """The directory of a model: `micro`, the name of a timing model (made on first use), or a path."""
    if name == "micro":
        return MODEL
    if name not in TIMING:
        return pathlib.Path(name).resolve(strict=True)
    folder = CACHE / "bench" / f"timing-{name}"
    if not (folder / "timing.json").exists():
        say(f"making a timing model of {name} in {folder}")
        subprocess.run([faster_whisper_python(), REPO / "scripts/bench/make_timing_model.py", name, "--out", folder], check=True)
    return folder


def is_timing(model):
    return (pathlib.Path(model) / "timing.json").exists()


def corpus(name, noise=False):
    """The folder of media of a corpus by its name."""
    return {"talks": lambda: mixed_corpus(1), "short200": short_corpus, "minutes60": lambda: hour_corpus(noise)}[name]()


def files_of(media, minutes=None):
    """(paths, {name: truth}): all files of a corpus, or the first ones until `minutes` are full."""
    truths, paths, seconds = truth_of(media), [], 0
    for name in sorted(truths):
        if minutes is not None and seconds >= 60 * minutes:
            break
        paths.append(media / name)
        seconds += truths[name]["duration"]
    return paths, {p.name: truths[p.name] for p in paths}


def texts_of(truths):
    return {name: " ".join(s["text"] for s in t["sentences"]) for name, t in truths.items()}


def audio_seconds(truths):
    return sum(t["duration"] for t in truths.values())


def spoken(binary, model, files, beam, **settings):
    """One run of `spoken bench`; `settings` are configuration keys.

    A timing model says as much in a short window as in a long one, which no speaker does: second tries at higher temperatures, for
    text that cannot be, are left out with it, here and for faster-whisper."""
    if is_timing(model):
        settings["temperature"] = 0
    with tempfile.TemporaryDirectory(prefix="spoken-bench-") as data:
        env = environment(data, whisper_model=model, whisper_compute="int8", whisper_device="cpu", beam_size=beam, **settings)
        done = subprocess.run([binary, "bench", "--rounds", "1", "--json", "--texts", *map(str, files)], env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"spoken bench ended with {done.returncode}:\n{done.stderr}\n{done.stdout[:2000]}")
    line = json.loads(done.stdout)
    texts, languages = {}, {}
    for file in line["texts"]:
        name = pathlib.Path(file["path"]).name
        languages[name] = file["language"]
        texts[name] = [{"start": s["start_ms"] / 1000, "end": s["end_ms"] / 1000, "text": s["text"],
                        "window": [s["avg_logprob"], s["no_speech_prob"]],
                        "words": [[w["text"], w["start_ms"] / 1000, w["end_ms"] / 1000] for w in s.get("words", [])]}
                       for s in file["segments"]]
    median = line["median"]
    return Run(median["wall_ms"] / 1000, texts, languages, median["peak_rss_bytes"] or 0, median["load_ms"] / 1000, median)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way to run faster-whisper."""
    mode: str            # plain | batched
    batch: int = 1
    threads: int = 0     # of a worker
    workers: int = 1     # files at a time in one process
    processes: int = 1   # side by side, the files divided among them

    def __str__(self):
        batch = f"batched, batch {self.batch}" if self.mode == "batched" else "plain"
        at_once = f"{self.processes} processes × " if self.processes > 1 else f"{self.workers} workers × " if self.workers > 1 else ""
        return f"{batch}, {at_once}{self.threads} thread{'s' * (self.threads != 1)}"


CORES = len(os.sched_getaffinity(0))
"""What a user could set, one process and several; all keep every core in work."""
ONE_PROCESS = [Setting("plain", 1, CORES), Setting("plain", 1, 1, CORES), Setting("batched", 1, CORES), Setting("batched", 8, CORES),
               Setting("batched", 16, CORES), Setting("batched", 1, 1, CORES), Setting("batched", 8, 1, CORES)]
SEVERAL = [Setting("plain", 1, 1, 1, CORES), Setting("batched", 1, 1, 1, CORES), Setting("batched", 8, 1, 1, CORES)]


def divided(files, truths, parts):
    """The files in `parts` lists of nearly equal length, the longest given out first."""
    lists, seconds = [[] for _ in range(parts)], [0] * parts
    for path in sorted(files, key=lambda p: -truths[p.name]["duration"]):
        shortest = seconds.index(min(seconds))
        lists[shortest].append(path)
        seconds[shortest] += truths[path.name]["duration"]
    return lists


def faster_whisper(model, files, truths, beam, setting, words=False):
    """One run of faster-whisper."""
    python = faster_whisper_python()
    # A number of threads in the environment would win over the setting's.
    env = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    processes = []
    for part in divided(files, truths, setting.processes) if setting.processes > 1 else [files]:
        request = {"model": str(model), "files": [str(p) for p in part], "beam": beam, "mode": setting.mode, "batch": setting.batch,
                   "threads": setting.threads, "workers": setting.workers, "words": words,
                   "calm": is_timing(model)}
        process = subprocess.Popen([python, RUNNER], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        processes.append(process)
    for process in processes:
        if process.stdout.readline().strip() != "ready":
            raise SystemExit(f"faster-whisper ({setting}) did not start")
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    lines = [process.stdout.readline() for process in processes]
    if any([process.wait() for process in processes]):
        raise SystemExit(f"faster-whisper ({setting}) broke off")
    reports = [json.loads(line) for line in lines]
    texts = {pathlib.Path(t["path"]).name: t for r in reports for t in r["texts"]}
    return Run(max(r["end"] for r in reports) - min(r["begin"] for r in reports), {n: t["segments"] for n, t in texts.items()},
               {n: t["language"] for n, t in texts.items()}, sum(r["peak_rss"] for r in reports), max(r["load_s"] for r in reports),
               {"windows": sum(r["windows"] for r in reports)})


def languages_right(run, truths):
    """(right, of) over the files in which one language is spoken."""
    right = of = 0
    for name, truth in truths.items():
        said = {s["language"] for s in truth["sentences"]}
        if len(said) == 1:
            of += 1
            right += run.languages.get(name) in said
    return right, of


def wer(run, truths):
    return word_error_rate(texts_of(truths), run.plain())


