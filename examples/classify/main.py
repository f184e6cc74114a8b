"""Classify: a support ticket in; what it is about, and how sure we are, out.

Naive Bayes with word counts. It is trained when the instance starts, from `training.tsv` beside
this file: work done at import is done once, and every later (warm) call finds it ready.
"""

import math
import re
from collections import Counter, defaultdict
from pathlib import Path

TEXT_CHARS_MAX = 10_000
STOP_WORDS = frozenset("a an and are as at be been but by for from has have i in is it its me my "
                       "of on or our so that the their they this to was we were will with you "
                       "your".split())


def words(text):
    """Lower-case words, shortened to their stem in the crudest useful way."""
    found = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    return [re.sub(r"(ing|ed|es|s)$", "", word) if len(word) > 4 else word
            for word in found if word not in STOP_WORDS]


class NaiveBayes:
    """P(label | words) from how often each label used each word."""

    def __init__(self, examples):
        self.counts, self.texts = defaultdict(Counter), Counter()
        for label, text in examples:
            self.texts[label] += 1
            self.counts[label].update(words(text))
        self.vocabulary = set().union(*self.counts.values())

    def probabilities(self, text):
        known = [word for word in words(text) if word in self.vocabulary]
        scores = {}
        for label, seen in self.counts.items():
            # Adding one to each count keeps a single unseen word from ruling a label out.
            size = seen.total() + len(self.vocabulary)
            scores[label] = math.log(self.texts[label] / self.texts.total())
            scores[label] += sum(math.log((seen[word] + 1) / size) for word in known)
        # Sums of logarithms are far below zero; shift by the best before leaving log space.
        best = max(scores.values())
        weights = {label: math.exp(score - best) for label, score in scores.items()}
        total = sum(weights.values())
        return {label: weight / total for label, weight in weights.items()}


def read_examples():
    lines = Path(__file__).with_name("training.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t", 1)) for line in lines if line]


MODEL = NaiveBayes(read_examples())
print(f"trained on {MODEL.texts.total()} texts, {len(MODEL.vocabulary)} words")


def main(payload):
    text = payload["text"]
    if not isinstance(text, str) or not 0 < len(text) <= TEXT_CHARS_MAX:
        raise ValueError(f"`text` must be 1 to {TEXT_CHARS_MAX} characters")
    found = MODEL.probabilities(text)
    label = max(found, key=found.get)
    return {
        "label": label,
        "probability": round(found[label], 4),
        "probabilities": {name: round(found[name], 4) for name in sorted(found)},
    }
