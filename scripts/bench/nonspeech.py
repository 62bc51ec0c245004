#!/usr/bin/env python3
"""Sounds that nobody speaks in: silence, noise, hum, tones, sweeps, music-like chords. The same for the same seed.

Each kind becomes one wav of 16 kHz, made of pieces of 8 to 30 s with parameters of their own: levels from -60 to -6 dB
below full scale, frequencies, shapes. Needs numpy.

  nonspeech.py --out DIR [--seed N] [--minutes M] [--kinds hum,tones]
"""
import argparse
import pathlib
import wave

import numpy as np

RATE = 16000


def rms_to(x, dbfs):
    """`x` at this root mean square, in dB below a full-scale square wave."""
    rms = np.sqrt(np.mean(x ** 2))
    return x * (10 ** (dbfs / 20) / rms) if rms else x


def spectrum_noise(rng, n, slope_db_per_octave):
    """Gaussian noise whose power falls (or rises) by this much an octave, from 30 Hz on."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 30)
    return np.fft.irfft(spectrum * f ** (slope_db_per_octave / 6.0206), n)


def times(n):
    return np.arange(n) / RATE


def partials(rng, n, f0, count, falloff, detune=0.0):
    """A sustained tone with harmonics; `detune` spreads them as in a bell or a piano."""
    t, out = times(n), np.zeros(n)
    for k in range(1, count + 1):
        f = f0 * k * (1 + detune * k * k)
        if f < RATE / 2:
            out += np.sin(2 * np.pi * f * t + rng.uniform(0, 2 * np.pi)) * k ** -falloff
    return out


def glide(frequency):
    """A sine of this momentary frequency."""
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE)


def note(midi):
    return 440 * 2 ** ((midi - 69) / 12)


# ---------------------------------------------------------------- kinds: each gives n samples, about -1 … 1

def silence(rng, n):
    which = rng.integers(4)
    if which == 0:
        return np.zeros(n)
    if which == 1:  # dither
        return (rng.random(n) + rng.random(n) - 1) / 32768
    if which == 2:  # a quiet room
        return rms_to(spectrum_noise(rng, n, -4), rng.uniform(-78, -60))
    x = np.zeros(n)  # silence with single clicks
    at = rng.integers(0, n, max(1, n // RATE // 2))
    x[at] = rng.uniform(-0.5, 0.5, len(at))
    return x


def noise(slope):
    return lambda rng, n: rms_to(spectrum_noise(rng, n, slope), rng.uniform(-60, -10))


def hum(rng, n):
    mains = rng.choice([50, 60, 100, 120, 400])
    x = partials(rng, n, mains * rng.uniform(0.998, 1.002), rng.integers(3, 30), rng.uniform(0.3, 2))
    x = rms_to(x, 0) + rms_to(spectrum_noise(rng, n, -3), rng.uniform(-50, -15))
    return rms_to(x, rng.uniform(-55, -10))


def machines(rng, n):
    """Fans, motors, wind, surf: noise and harmonics that wax and wane slowly."""
    t = times(n)
    x = rms_to(spectrum_noise(rng, n, rng.uniform(-9, 0)), 0)
    if rng.random() < 0.6:
        x += rms_to(partials(rng, n, rng.uniform(30, 220), 20, rng.uniform(0.5, 1.5)), rng.uniform(-15, 6))
    depth = rng.uniform(0, 0.9)
    x *= 1 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.05, 1.0) * t + rng.uniform(0, 6)))
    return rms_to(x, rng.uniform(-45, -12))


def tones(rng, n):
    """A steady sine, with or without tremolo, vibrato and some noise."""
    t, f = times(n), np.exp(rng.uniform(np.log(80), np.log(4000)))
    wobble = rng.choice([0, 0, 0.003, 0.015]) * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
    x = glide(f * (1 + wobble)) * (1 - rng.choice([0, 0, 0.3]) * (0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(2, 8) * t)))
    return rms_to(x, rng.uniform(-40, -6)) + rms_to(rng.standard_normal(n), rng.uniform(-80, -50))


def beeps(rng, n):
    """Signals: alarms, dial and engaged tones, key tones, ringing."""
    t = times(n)
    which = rng.integers(5)
    period, duty = [(1.0, 0.5), (0.5, 0.5), (0.25, 0.5), (6.0, 0.33), (0.2, 0.5)][which]
    gate = ((t + rng.uniform(0, 1)) % period) < period * duty
    gate = np.convolve(gate, np.ones(80) / 80, "same")
    if which == 4:
        keys = rng.integers(0, 12, n // RATE * 5 + 6)[(t / 0.2).astype(int)]
        low, high = np.array([697, 770, 852, 941])[keys // 3], np.array([1209, 1336, 1477])[keys % 3]
        x = glide(low) + glide(high)
    else:
        f = rng.choice([350, 425, 440, 480, 800, 1000, 2000, 3000])
        x = glide(np.full(n, float(f))) + rng.choice([0, 1]) * glide(np.full(n, f * 1.1))
    return rms_to(x * gate, rng.uniform(-40, -8)) + rms_to(rng.standard_normal(n), rng.uniform(-80, -55))


def sweeps(rng, n):
    """Up and down, straight or logarithmic, of a sine or a sawtooth; sirens."""
    t, period = times(n), rng.uniform(0.8, 15)
    phase = (t / period) % 1
    if rng.random() < 0.5:
        phase = 1 - np.abs(2 * phase - 1)
    low, high = np.exp(rng.uniform(np.log(60), np.log(500))), np.exp(rng.uniform(np.log(700), np.log(7000)))
    f = low + (high - low) * phase if rng.random() < 0.5 else low * (high / low) ** phase
    x = glide(f)
    if rng.random() < 0.4:
        for k in range(2, 6):
            x = x + np.where(f * k < RATE / 2, glide(f * k), 0) / k
    return rms_to(x, rng.uniform(-40, -8)) + rms_to(rng.standard_normal(n), rng.uniform(-80, -55))


CHORDS = [(0, 4, 7), (0, 3, 7), (0, 4, 7, 10), (0, 4, 7, 11), (0, 3, 7, 10), (0, 5, 7), (0, 3, 6, 9)]


def pads(rng, n):
    """Held chords that fade into each other every few seconds, like an organ or strings."""
    out, at = np.zeros(n + 30 * RATE), 0
    while at < n:
        length = int(rng.uniform(2, 8) * RATE)
        envelope = np.minimum(1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (0.4 * RATE))
        root = rng.integers(40, 64)
        for interval in CHORDS[rng.integers(len(CHORDS))]:
            out[at:at + length] += envelope * partials(rng, length, note(root + interval), 8, rng.uniform(0.8, 2))
        at += int(length * 0.85)
    return rms_to(out[:n], rng.uniform(-40, -10)) + rms_to(rng.standard_normal(n), rng.uniform(-80, -55))


def plucked(rng, n, per_second, chord):
    """Struck strings: chords or single notes that ring and decay, on a beat."""
    out, at, root = np.zeros(n + 10 * RATE), 0, rng.integers(40, 60)
    decay, falloff, detune = rng.uniform(0.2, 1.5), rng.uniform(0.8, 1.8), rng.choice([0, 0.0003])
    step = int(RATE / per_second)
    while at < n:
        if rng.random() < 0.25:
            root = int(np.clip(root + rng.choice([-7, -5, -2, 2, 5, 7]), 38, 62))
        intervals = CHORDS[rng.integers(len(CHORDS))]
        if not chord:
            intervals = [rng.choice(intervals) + 12 * rng.integers(2)]
        length = int(min(4 * decay, 4) * RATE)
        envelope = np.exp(-times(length) / decay) * np.minimum(1, np.arange(length) / 80)
        for interval in intervals:
            out[at:at + length] += envelope * partials(rng, length, note(root + interval), 10, falloff, detune)
        at += step * rng.choice([1, 1, 1, 2])
    return rms_to(out[:n], rng.uniform(-40, -10)) + rms_to(rng.standard_normal(n), rng.uniform(-80, -55))


def struck_chords(rng, n):
    return plucked(rng, n, rng.uniform(0.8, 3), True)


def melodies(rng, n):
    return plucked(rng, n, rng.uniform(2, 6), False)


def rhythm(rng, n):
    """Chords with drums: bursts of noise and falling thuds on the beat."""
    x = rms_to(plucked(rng, n, rng.uniform(1, 3), True), -20)
    beat, at, drums = int(RATE * rng.uniform(0.25, 0.6)), 0, np.zeros(n + RATE)
    k = 0
    while at < n:
        length = int(0.12 * RATE)
        t = times(length)
        hit = np.exp(-t / 0.03) * (rng.standard_normal(length) if k % 2 else 3 * np.sin(2 * np.pi * 60 * t * (1 + np.exp(-t * 30))))
        drums[at:at + length] += hit
        at, k = at + beat, k + 1
    x = x + rms_to(drums[:n], rng.uniform(-35, -18))
    return rms_to(x, rng.uniform(-35, -10))


KINDS = {
    "silence": silence, "white": noise(0), "pink": noise(-3), "brown": noise(-6), "hum": hum, "machines": machines,
    "tones": tones, "beeps": beeps, "sweeps": sweeps, "pads": pads, "struck-chords": struck_chords, "melodies": melodies,
    "rhythm": rhythm,
}


def sound(kind, seed, seconds):
    """16-bit samples of one kind."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    total, parts, have = int(seconds * RATE), [], 0
    while have < total:
        n = min(int(rng.uniform(8, 30) * RATE), total - have)
        x = KINDS[kind](rng, n)
        fade = min(n // 2, 160)
        x[:fade] *= np.linspace(0, 1, fade)
        x[n - fade:] *= np.linspace(1, 0, fade)
        parts.append(x)
        have += n
    return np.clip(np.round(np.concatenate(parts) * 32767), -32768, 32767).astype("<i2")


def write(path, samples):
    with wave.open(str(path), "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(RATE)
        w.writeframes(samples.tobytes())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--minutes", type=float, default=60, help="of all kinds together")
    p.add_argument("--kinds", default=",".join(KINDS))
    a = p.parse_args()
    kinds = a.kinds.split(",")
    a.out.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        write(a.out / f"{kind}.wav", sound(kind, a.seed, a.minutes * 60 / len(kinds)))


if __name__ == "__main__":
    main()
