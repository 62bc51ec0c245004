"""What two transcripts of one file say differently, what kind of difference each is, and which of them the truth bears out."""
import collections
import dataclasses
import re

from common import words

SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen
 twenty thirty forty fifty sixty seventy eighty ninety hundred thousand cero uno una dos tres cuatro cinco seis siete ocho nueve diez once doce
 trece catorce quince dieciséis veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa cien ciento mil""".split()
NUMBERS = set(SMALL)
EDGE = 2  # words from the end of a window that count as its edge
SENTENCE = 4  # words missing together that count as a sentence

KINDS = ["a sentence is missing", "repeated words", "number", "other edge of a window", "one word", "several words"]


@dataclasses.dataclass
class Difference:
    """A place where two transcripts differ."""
    file: str
    place: int       # word of the truth it begins at
    truth: str
    ours: str
    theirs: str
    kind: str
    right: str       # spoken | faster-whisper | neither


def aligned(reference, heard):
    """For each word of `reference` the words of `heard` that stand for it (with those put in before it), as lists of positions; and
    those put in at the end. Levenshtein, ties resolved in favour of equal words."""
    n, m = len(reference), len(heard)
    cost = [list(range(m + 1))]
    for i in range(1, n + 1):
        row = [i]
        for j in range(1, m + 1):
            row.append(min(cost[-1][j] + 1, row[j - 1] + 1, cost[-1][j - 1] + (reference[i - 1] != heard[j - 1])))
        cost.append(row)
    places = [[] for _ in range(n + 1)]
    i, j = n, m
    while i or j:
        if i and j and cost[i][j] == cost[i - 1][j - 1] + (reference[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            places[i].insert(0, j)
        elif j and cost[i][j] == cost[i][j - 1] + 1:
            j -= 1
            places[i].insert(0, j)
        else:
            i -= 1
    return places


def edges(segments):
    """Positions of the words near the beginning or end of a window; segments of one window have the same scores."""
    near, position, window, begin = set(), 0, None, 0
    for segment in [*segments, {"text": "", "window": object()}]:
        if segment["window"] != window:
            near |= set(range(max(begin, position - EDGE), position)) | set(range(position, position + EDGE))
            window, begin = segment["window"], position
        position += len(words(segment["text"]))
    return near


def repeats(heard, at):
    """True where the words at these positions say again what stands right before or behind them."""
    if not at:
        return False
    low, high, n = at[0], at[-1] + 1, at[-1] + 1 - at[0]
    for size in range(1, n + 1):
        piece = heard[low:low + size]
        if heard[max(0, low - size):low] == piece or heard[high - size:high] == heard[high:high + size]:
            return True
    return False


def differences(file, truth, ours, theirs):
    """[Difference] between two lists of segments, in the order of the truth (a text)."""
    reference = words(truth)
    heard = [[w for s in segments for w in words(s["text"])] for segments in (ours, theirs)]
    places = [aligned(reference, h) for h in heard]
    near = [edges(segments) for segments in (ours, theirs)]
    said = [[[h[j] for j in at] for at in p] for h, p in zip(heard, places)]
    out, i = [], 0
    while i <= len(reference):
        if said[0][i] == said[1][i]:
            i += 1
            continue
        begin = i
        while i <= len(reference) and said[0][i] != said[1][i]:
            i += 1
        true = reference[begin:i]
        pair = [[w for at in s[begin:i] for w in at] for s in said]
        at = [[j for place in p[begin:i] for j in place] for p in places]
        right = "spoken" if pair[0] == true else "faster-whisper" if pair[1] == true else "neither"
        everything = set(pair[0]) | set(pair[1])
        is_number = lambda word: word in NUMBERS or bool(re.fullmatch(r"\d+", word))
        fewest, most = sorted((len(pair[0]), len(pair[1])))
        if most - fewest >= SENTENCE:
            kind = KINDS[1] if any(len(p) > len(true) and repeats(h, a) for p, h, a in zip(pair, heard, at)) else KINDS[0]
        elif any(len(p) > len(true) and repeats(h, a) for p, h, a in zip(pair, heard, at)):
            kind = KINDS[1]
        elif everything and all(map(is_number, everything | set(true))):
            kind = KINDS[2]
        elif any(set(a) & n for a, n in zip(at, near)):
            kind = KINDS[3]
        else:
            kind = KINDS[4] if most <= 1 else KINDS[5]
        out.append(Difference(file, begin, " ".join(true), *(" ".join(p) for p in pair), kind, right))
    return out


def table(found):
    """Lines: how many of each kind, and whom the truth bears out."""
    counts = collections.Counter((d.kind, d.right) for d in found)
    for kind in KINDS:
        row = [counts[kind, who] for who in ("spoken", "faster-whisper", "neither")]
        if any(row):
            yield f"    {kind:<24} {sum(row):5}   right: spoken {row[0]:4}, faster-whisper {row[1]:4}, neither {row[2]:4}"
