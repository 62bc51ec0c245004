"""Shared by the benchmarks: corpora of made speech with exact truth, word error rate, runs of the release binary."""
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

REPO = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "spoken"
TOOLS = pathlib.Path(os.environ.get("SPOKEN_TOOLS_DIR") or CACHE / "tools")
MODEL = REPO / "tests/fixtures/whisper-micro"
EMBEDDER = TOOLS / "models/all-minilm-l6-v2"
MAKE_SPEECH = REPO / "tests/fixtures/make_speech.py"


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def make_corpus(name, items):
    """Renders [(file name, make_speech arguments)] once; gives the folder of media. Truth stands in ../truth."""
    folder = CACHE / "bench" / name
    media, truth = folder / "media", folder / "truth"
    if not (folder / "complete").exists():
        say(f"making {len(items)} files of speech in {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        media.mkdir(parents=True)
        truth.mkdir()

        def render(item):
            file, arguments = item
            subprocess.run([sys.executable, MAKE_SPEECH, *map(str, arguments), "--out", media / file],
                           check=True, stderr=subprocess.DEVNULL)
            (media / (file + ".json")).rename(truth / (file + ".json"))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(render, items))
        (folder / "complete").touch()
    return media


def mixed_corpus(seed, count=40, longest=300):
    """`count` files: five formats, 20 s to `longest`, two languages, a third with noise."""
    rng = random.Random(seed)
    items = []
    for n in range(count):
        extension = ["wav", "mp3", "m4a", "webm", "mp4"][n % 5]
        seconds = round(20 + (longest - 20) * rng.random() ** 1.5, 1)
        arguments = ["--seed", seed * 1000 + n, "--seconds", seconds, "--voices", rng.choice([1, 2, 2]),
                     "--lang", "es" if n % 4 == 3 else "en", "--pause", "0.3", "2.5"]
        if n % 3 == 0:
            arguments += ["--noise", rng.choice([20, 25, 30])]
        if extension == "wav":
            arguments += ["--rate", rng.choice([8000, 16000, 44100])]
        items.append((f"talk-{n:02}.{extension}", arguments))
    return make_corpus(f"mixed-{seed}-{count}-{longest}", items)


def hour_corpus(noise=False):
    """60 minutes in 20 files of three: five formats, one to three voices, every fourth file Spanish, every tenth both languages.
    With `noise`, the same speech in white noise and hum, 15 to 30 dB below it."""
    rng, items = random.Random(60), []
    for n in range(20):
        extension = ["m4a", "mp3", "wav", "webm", "mp4"][n % 5]
        arguments = ["--seed", 60_000 + n, "--seconds", 180, "--voices", rng.choice([1, 2, 3]),
                     "--lang", "mix" if n % 10 == 6 else "es" if n % 4 == 3 else "en", "--pause", "0.2", "2.0"]
        if noise:
            arguments += ["--noise", [15, 20, 25, 30][n % 4 if n < 10 else 3 - n % 4]]
        items.append((f"hour-{n:02}.{extension}", arguments))
    return make_corpus("minutes60" + ("-noise" if noise else ""), items)


def short_corpus():
    """200 files of 10 to 60 seconds, as voice messages are: five formats, every fifth one Spanish, every fourth with noise."""
    rng, items = random.Random(200), []
    for n in range(200):
        extension = ["opus", "m4a", "mp3", "ogg", "wav"][n % 5]
        arguments = ["--seed", 200_000 + n, "--seconds", round(rng.uniform(10, 60), 1), "--voices", 1,
                     "--lang", "es" if n % 5 == 4 else "en", "--pause", "0.2", "1.5"]
        if n % 4 == 0:
            arguments += ["--noise", rng.choice([15, 20, 25])]
        items.append((f"note-{n:03}.{extension}", arguments))
    return make_corpus("short200", items)


def truth_of(media):
    """{file name: the truth's document}"""
    return {p.name.removesuffix(".json"): json.loads(p.read_text()) for p in (media.parent / "truth").glob("*.json")}


def words(text):
    text = unicodedata.normalize("NFKC", text.lower())
    return re.sub(r"[^\w\s']", " ", text).split()


def errors(reference, hypothesis):
    """Levenshtein distance over words."""
    row = list(range(len(hypothesis) + 1))
    for i, r in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, h in enumerate(hypothesis, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (r != h))
    return row[-1]


def word_error_rate(truths, texts):
    """Over all files together, in percent. Both: {file name: text}."""
    wrong = total = 0
    for name, truth in truths.items():
        reference = words(truth)
        wrong += errors(reference, words(texts.get(name, "")))
        total += len(reference)
    return 100 * wrong / max(1, total)


def build():
    """Builds the release binary through the project's scripts and gives its path."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or CACHE / "target")
    if "SPOKEN_BENCH_BINARY" in os.environ:
        return pathlib.Path(os.environ["SPOKEN_BENCH_BINARY"])
    subprocess.run([REPO / "scripts/spoken", "--profile", "sample", "--version"], check=True, stdout=subprocess.DEVNULL)
    return target / "release/spoken"


def environment(data, **settings):
    """This process's environment with the sample models, `data` as the data directory, and the settings given by key."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("SPOKEN_", "WHISPER_"))}
    env |= {
        "SPOKEN_DATA_DIR": str(data), "SPOKEN_TOOLS_DIR": str(TOOLS), "SPOKEN_CONFIG_DIR": str(REPO / "config"),
        "ORT_DYLIB_PATH": str(TOOLS / "lib/libonnxruntime.so"), "WHISPER_MODEL": str(MODEL),
        "EMBEDDING_MODEL": str(EMBEDDER),
    }
    return env | {k.upper(): str(v) for k, v in settings.items()}


class Library:
    """One data directory and the commands on it; deleted at the end."""

    def __init__(self, binary, keep=None, **settings):
        self.binary = binary
        self.dir = pathlib.Path(keep or tempfile.mkdtemp(prefix="spoken-bench-"))
        self.env = environment(self.dir, **settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.run("db", "stop", check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    def run(self, *arguments, check=True, **options):
        return subprocess.run([self.binary, *map(str, arguments)], env=self.env, check=check, text=True,
                              stdout=subprocess.PIPE, stderr=options.pop("stderr", subprocess.DEVNULL), **options)

    def popen(self, *arguments, **options):
        return subprocess.Popen([self.binary, *map(str, arguments)], env=self.env, text=True, **options)

    def json(self, *arguments, **options):
        return json.loads(self.run(*arguments, **options).stdout)

    def ingest(self, *sources, check=True):
        """The summary object, with the seconds that the process took."""
        start = time.monotonic()
        done = self.run("ingest", "--json", *sources, check=check)
        summary = json.loads(done.stdout.strip().splitlines()[-1])
        summary["process_s"] = time.monotonic() - start
        return summary

    def items(self):
        return self.json("status", "--json")["items"]

    def transcripts(self):
        """{file name: exported JSON} of what is done."""
        return {pathlib.Path(i["source"]).name: self.json("export", i["media_id"], "--format", "json")
                for i in self.items() if i["state"] == "done"}


def faster_whisper_python():
    """An environment with faster-whisper, made on first use; gives its interpreter."""
    env = CACHE / "bench" / "faster-whisper-1.2.1"
    python = env / "bin/python"
    if not (env / "complete").exists():
        say(f"making an environment with faster-whisper in {env}")
        subprocess.run([sys.executable, "-m", "venv", env], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", REPO / "scripts/bench/requirements.txt"], check=True)
        (env / "complete").touch()
    return python
