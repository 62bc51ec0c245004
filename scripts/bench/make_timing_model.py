#!/usr/bin/env python3
"""Write a Whisper model of a real model's exact shape, to measure speed without its weights.

  make_timing_model.py tiny --out timing-tiny
  make_timing_model.py large-v3-turbo --out timing-turbo --tokens 60

THE TEXT IT GIVES IS MEANINGLESS.  The weights are random.  The one thing that is arranged is the decoder's output: whatever the
audio, each window gives a start timestamp, a fixed number of text tokens, an end timestamp and the end of text, so a run costs
what the real model costs for a window of that many tokens.  For time and memory only: real speech varies in tokens a
window, and a real model's second tries at other temperatures, early silence and repetitions are not imitated.  Languages are
always detected as English.

How: every block of the decoder has output projections of zeros (the sums are computed in full all the same), but for the
last one's feed-forward part.  There each token of the chain

  start of transcript -> <|en|> -> <|transcribe|> -> <|0.00|> -> text ... -> <|end|> -> <|endoftext|>
  <|notimestamps|> -> the same text (the step to <|end|> is then taken as well, and costs a token)

has a hidden unit that knows its embedding and adds the next token's.  Each place of the chain has four runners-up that lead on
to the same next place, so that all beams of a beam search keep in step and end together, as a real model's mostly do.  Tokens
outside the chain lead to the end of text.  No token occurs twice.

Needs the packages in requirements.txt; the tokenizer is that of tests/fixtures/whisper-micro.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import tokenizers

TOKENIZER = pathlib.Path(__file__).resolve().parents[2] / "tests/fixtures/whisper-micro"

#                     mels  d    heads enc dec vocabulary
SHAPES = {
    "tiny":            (80, 384, 6, 4, 4, 51865),
    "base":            (80, 512, 8, 6, 6, 51865),
    "small":           (80, 768, 12, 12, 12, 51865),
    "medium":          (80, 1024, 16, 24, 24, 51865),
    "large-v2":        (80, 1280, 20, 32, 32, 51865),
    "large-v3":        (128, 1280, 20, 32, 32, 51866),
    "distil-large-v3": (128, 1280, 20, 32, 2, 51866),
    "large-v3-turbo":  (128, 1280, 20, 32, 4, 51866),
}
TWINS = 5  # words that may stand at one place of the chain
LAST_LANGUAGE = "<|su|>"  # behind it the larger vocabulary has one more
TEXT = """ the people who work in this house know that every morning begins with a quiet walk along river before breakfast
 and after coffee they talk about plans for day while children play outside near old garden wall where yellow flowers grow
 because spring came early year some birds sing from high trees others look down at water small boats move slowly toward
 harbor carrying fish bread letters news far cities there is music too someone plays piano window open wide so sound fills street
 neighbors stop listen smile then go their way nobody seems hurry under such bright sky even clock on church tower appears
 to rest between hours when evening comes lights turn one by families gather around tables stories told again until night falls
 softly over hills forest sleeps stars shine wind carries smell of rain tomorrow will bring new faces different words same hope"""


class Vocabulary:
    """The multilingual tokenizer and what a CTranslate2 model's directory says of it."""

    def __init__(self, size):
        self.tokenizer = json.loads((TOKENIZER / "tokenizer.json").read_text())
        self.names = json.loads((TOKENIZER / "vocabulary.json").read_text())
        config = json.loads((TOKENIZER / "config.json").read_text())
        extra, behind = size - len(self.names), self.names.index(LAST_LANGUAGE)
        assert extra in (0, 1), "an unknown vocabulary"
        if extra:
            added = self.tokenizer["added_tokens"]
            at = next(i for i, token in enumerate(added) if token["id"] == behind)
            for token in added[at + 1:]:
                token["id"] += 1
            added.insert(at + 1, added[at] | {"id": behind + 1, "content": "<|yue|>"})
            self.names.insert(behind + 1, "<|yue|>")
        moved = lambda ids: [i + extra * (i > behind) for i in ids]
        self.suppressed, self.suppressed_first = moved(config["suppress_ids"]), moved(config["suppress_ids_begin"])
        self.languages = config["lang_ids"] + ([behind + 1] if extra else [])
        self.coder = tokenizers.Tokenizer.from_str(json.dumps(self.tokenizer))

    def id(self, name):
        return self.coder.token_to_id(name)


def chain(vocabulary, n):
    """n different text tokens, words of an invented passage first."""
    bad, seen, out = set(vocabulary.suppressed), set(), []
    for i in vocabulary.coder.encode(" " + " ".join(TEXT.split())).ids + list(range(1000, 40000)):
        word = vocabulary.coder.decode([i])
        if i not in seen and i not in bad and word[:1] == " " and len(word) > 1 and word.strip().isalpha() and word.isascii():
            seen.add(i)
            out.append(i)
            if len(out) == n:
                return out
    raise SystemExit("too many tokens")


def weights(shape, vocabulary, tokens, seconds, seed):
    """{tensor, as OpenAI calls it: float16 array}"""
    mels, d, _, encoders, decoders, size = shape
    rng = np.random.default_rng(seed)
    pool = (rng.standard_normal(1 << 22, dtype=np.float32) * 0.02).astype(np.float16)

    def rand(*dims):  # a window onto a pool of noise: fast even for 1.5 billion weights
        n = int(np.prod(dims))
        start = int(rng.integers(0, len(pool) - 1))
        times = -(-(n + start) // len(pool))
        return (np.tile(pool, times) if times > 1 else pool)[start:start + n].reshape(dims)

    zero, one = lambda *dims: np.zeros(dims, np.float16), lambda *dims: np.ones(dims, np.float16)
    out = {}

    def block(name, cross, quiet):
        for attention in ["attn"] + (["cross_attn"] if cross else []):
            for part in ("query", "key", "value", "out"):
                out[f"{name}.{attention}.{part}.weight"] = zero(d, d) if quiet and part == "out" else rand(d, d)
                if part != "key":
                    out[f"{name}.{attention}.{part}.bias"] = zero(d)
            out[f"{name}.{attention}_ln.weight"], out[f"{name}.{attention}_ln.bias"] = one(d), zero(d)
        out[f"{name}.mlp.0.weight"], out[f"{name}.mlp.0.bias"] = rand(4 * d, d), zero(4 * d)
        out[f"{name}.mlp.2.weight"], out[f"{name}.mlp.2.bias"] = (zero if quiet else rand)(d, 4 * d), zero(d)
        out[f"{name}.mlp_ln.weight"], out[f"{name}.mlp_ln.bias"] = one(d), zero(d)

    t = np.arange(1500)[:, None] * np.exp(-np.log(10000) / (d // 2 - 1) * np.arange(d // 2))[None]
    out["encoder.positional_embedding"] = np.concatenate([np.sin(t), np.cos(t)], 1).astype(np.float32)
    out["encoder.conv1.weight"], out["encoder.conv1.bias"] = rand(d, mels, 3), zero(d)
    out["encoder.conv2.weight"], out["encoder.conv2.bias"] = rand(d, d, 3), zero(d)
    for i in range(encoders):
        block(f"encoder.blocks.{i}", False, False)
    out["encoder.ln_post.weight"], out["encoder.ln_post.bias"] = one(d), zero(d)

    # Embeddings: random directions of unit length and zero mean, so that layer norm leaves them as they are.
    e = rng.standard_normal((size, d), dtype=np.float32)
    e -= e.mean(1, keepdims=True)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    out["decoder.token_embedding.weight"] = e.astype(np.float16)
    out["decoder.positional_embedding"] = np.zeros((448, d), np.float32)
    for i in range(decoders):
        block(f"decoder.blocks.{i}", True, True)
    out["decoder.ln.weight"], out["decoder.ln.bias"] = one(d) * 2, zero(d)

    words = chain(vocabulary, TWINS * tokens)
    text = [words[i::tokens] for i in range(tokens)]  # each place: the word said, then its runners-up
    stamps, transcribe = vocabulary.id("<|0.00|>"), vocabulary.id("<|transcribe|>")
    end = stamps + round(seconds * 50)
    first, last = [stamps + i for i in range(TWINS)], [end - i for i in range(TWINS)]
    steps = [(vocabulary.id("<|startoftranscript|>"), [vocabulary.id("<|en|>")]), (transcribe, first),
             (vocabulary.id("<|translate|>"), first), (vocabulary.id("<|notimestamps|>"), text[0])]
    steps += [(k, [transcribe]) for k in vocabulary.languages] + [(stamps + i, text[0]) for i in range(51)]  # any opening stamp
    for here, after in zip(text, text[1:] + [last]):
        steps += [(k, after) for k in here]
    assert len(steps) <= 4 * d, "too many tokens for this width"
    name = f"decoder.blocks.{decoders - 1}.mlp"
    w1, b1, w2 = np.zeros((4 * d, d), np.float32), np.full(4 * d, -1.0, np.float32), np.zeros((d, 4 * d), np.float32)
    for k, (token, after) in enumerate(steps):
        # Layer norm makes the embedding sqrt(d) long; its own unit gives 12 - 6, others about -6 +- 2.
        w1[k], b1[k] = e[token] * 12 / np.sqrt(d), -6.0
        w2[:, k] = 4 * (e[after[0]] + 0.7 * e[after[1:]].sum(0))
    out[name + ".0.weight"], out[name + ".0.bias"] = w1.astype(np.float16), b1.astype(np.float16)
    out[name + ".2.weight"], out[name + ".2.bias"] = w2.astype(np.float16), (e[vocabulary.id("<|endoftext|>")] * 4).astype(np.float16)
    return out


def write(folder, shape, state, vocabulary, dtype):
    """A CTranslate2 directory as the converter of openai/whisper models writes it."""
    from ctranslate2.specs.whisper_spec import WhisperSpec
    mels, _, heads, encoders, decoders, _ = shape
    spec = WhisperSpec(encoders, heads, decoders, heads)

    def norm(layer, name):
        layer.gamma, layer.beta = state[name + ".weight"], state[name + ".bias"]

    def linear(layer, *names):
        layer.weight = np.concatenate([state[n + ".weight"] for n in names])
        missing = np.zeros(len(layer.weight) // len(names), np.float16)
        layer.bias = np.concatenate([state.get(n + ".bias", missing) for n in names])

    def block(layer, name, cross):
        norm(layer.self_attention.layer_norm, name + ".attn_ln")
        linear(layer.self_attention.linear[0], *(f"{name}.attn.{part}" for part in ("query", "key", "value")))
        linear(layer.self_attention.linear[1], name + ".attn.out")
        if cross:
            norm(layer.attention.layer_norm, name + ".cross_attn_ln")
            linear(layer.attention.linear[0], name + ".cross_attn.query")
            linear(layer.attention.linear[1], name + ".cross_attn.key", name + ".cross_attn.value")
            linear(layer.attention.linear[2], name + ".cross_attn.out")
        norm(layer.ffn.layer_norm, name + ".mlp_ln")
        linear(layer.ffn.linear_0, name + ".mlp.0")
        linear(layer.ffn.linear_1, name + ".mlp.2")

    for conv in ("conv1", "conv2"):
        linear(getattr(spec.encoder, conv), f"encoder.{conv}")
    spec.encoder.position_encodings.encodings = state["encoder.positional_embedding"]
    for i, layer in enumerate(spec.encoder.layer):
        block(layer, f"encoder.blocks.{i}", False)
    norm(spec.encoder.layer_norm, "encoder.ln_post")
    spec.decoder.embeddings.weight = state["decoder.token_embedding.weight"]
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.decoder.position_encodings.encodings = state["decoder.positional_embedding"]
    for i, layer in enumerate(spec.decoder.layer):
        block(layer, f"decoder.blocks.{i}", True)
    norm(spec.decoder.layer_norm, "decoder.ln")

    spec.config.suppress_ids, spec.config.suppress_ids_begin = vocabulary.suppressed, vocabulary.suppressed_first
    spec.config.lang_ids = vocabulary.languages
    spec.config.alignment_heads = [[layer, head] for layer in range(decoders // 2, decoders) for head in range(heads)]
    spec.register_vocabulary(vocabulary.names)
    spec.validate()
    spec.optimize(quantization=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary.tokenizer, ensure_ascii=False))
    features = json.loads((TOKENIZER / "preprocessor_config.json").read_text()) | {"feature_size": mels}
    (folder / "preprocessor_config.json").write_text(json.dumps(features, indent=1))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("shape", choices=list(SHAPES))
    p.add_argument("--out", required=True, type=pathlib.Path, help="directory to write")
    p.add_argument("--tokens", type=int, default=90, help="text tokens of each window (default 90)")
    p.add_argument("--end", type=float, default=29.0, help="the closing timestamp (default 29.0)")
    p.add_argument("--dtype", default="float16", choices=["float32", "float16", "bfloat16", "int8", "int8_float16", "int8_float32"])
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    shape = SHAPES[a.shape]
    vocabulary = Vocabulary(shape[5])
    state = weights(shape, vocabulary, a.tokens, a.end, a.seed)
    print(f"{a.shape}: {sum(w.size for w in state.values()) / 1e6:.1f} M parameters", file=sys.stderr)
    write(a.out, shape, state, vocabulary, a.dtype)
    note = {"shape": a.shape, "text_tokens": a.tokens, "end": a.end, "note": "random weights; the text is meaningless"}
    (a.out / "timing.json").write_text(json.dumps(note, indent=1))


if __name__ == "__main__":
    main()
