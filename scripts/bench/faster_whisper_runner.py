"""Runs faster-whisper over files as a script of its user would, and tells how long that took.

Started by the benchmarks with the interpreter of faster-whisper's own environment. A request comes as one line of JSON on standard
input; when the model is loaded, `ready` goes to standard output; `go` starts the clock; the report is one line of JSON.

Request: model, files, beam, mode (plain | batched), batch, threads (of a worker), workers (files at a time, each with threads of its
own), words, calm (no second tries at higher temperatures). As spoken does by default, speech is detected first and no text is carried over from window to window.
"""
import json
import resource
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from faster_whisper import BatchedInferencePipeline, WhisperModel


class Counted:
    """CTranslate2's model, and how many windows it was given to decode, second tries included."""

    def __init__(self, model):
        self.model, self.windows, self.lock = model, 0, threading.Lock()

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, features, *arguments, **options):
        with self.lock:
            self.windows += features.shape[0]
        return self.model.generate(features, *arguments, **options)


def main():
    r = json.loads(sys.stdin.readline())
    started = time.monotonic()
    model = WhisperModel(r["model"], device=r.get("device", "cpu"), compute_type=r.get("compute", "int8"), cpu_threads=r["threads"],
                         num_workers=r["workers"])
    model.model = counted = Counted(model.model)
    options = {"beam_size": r["beam"], "vad_filter": True, "word_timestamps": r["words"]}
    if r["calm"]:
        options["temperature"] = 0.0
    if r["mode"] == "batched":
        options["batch_size"] = r["batch"]
        transcriber = lambda: BatchedInferencePipeline(model)
    else:
        options["condition_on_previous_text"] = False
        transcriber = lambda: model
    load = time.monotonic() - started
    print("ready", flush=True)
    assert sys.stdin.readline().strip() == "go"

    def one(path):
        segments, info = transcriber().transcribe(path, **options)
        out = [{"start": s.start, "end": s.end, "text": s.text.strip(), "window": [s.avg_logprob, s.no_speech_prob],
                "words": [[w.word, w.start, w.end] for w in s.words or []]} for s in segments]
        return {"path": path, "language": info.language, "segments": out}

    begin = time.monotonic()
    if r["workers"] > 1:
        with ThreadPoolExecutor(r["workers"]) as pool:
            texts = list(pool.map(one, r["files"]))
    else:
        texts = [one(path) for path in r["files"]]
    end = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"load_s": load, "begin": begin, "end": end, "peak_rss": peak, "windows": counted.windows, "texts": texts}), flush=True)


main()
