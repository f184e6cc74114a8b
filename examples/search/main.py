"""Search: words in; the documents that fit them best, with the passage that fits, out.

BM25, the ranking most search engines start from: a word counts more when it is rare in general
and frequent in this document, and a long document gets no credit for its length. The index is
built once, when an instance starts, from `documents.json` beside this file.
"""

import json
import math
import re
from collections import Counter, defaultdict
from pathlib import Path

K1 = 1.5  # how soon further occurrences of a word stop counting
B = 0.75  # how much a document's length counts: 0 not at all, 1 fully
HITS_MAX = 20
STOP_WORDS = frozenset("a an and are as at by do does for from how in is it its of on or that the "
                       "their to was what when where which why with".split())


def words(text):
    return [re.sub(r"(?<=\w{3})(ies|es|s|ing|ed)$", "", word)
            for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in STOP_WORDS]


class Index:
    """Word -> documents that have it, and what BM25 needs to know of each."""

    def __init__(self, documents):
        self.documents = documents
        self.postings = defaultdict(dict)
        self.lengths = []
        for number, document in enumerate(documents):
            # A word of the title says more of what it is about: count it three times.
            counts = Counter(words(f"{document['title']} " * 3 + document["text"]))
            self.lengths.append(counts.total())
            for word, count in counts.items():
                self.postings[word][number] = count
        self.length_mean = sum(self.lengths) / len(self.lengths)

    def rarity(self, word):
        having = len(self.postings.get(word, ()))
        return math.log(1 + (len(self.documents) - having + 0.5) / (having + 0.5))

    def rank(self, query):
        """[(score, document number)], best first."""
        scores = Counter()
        for word in set(words(query)):
            for number, count in self.postings.get(word, {}).items():
                fair = K1 * (1 - B + B * self.lengths[number] / self.length_mean)
                scores[number] += self.rarity(word) * count * (K1 + 1) / (count + fair)
        return [(score, number) for number, score in scores.most_common()]

    def snippet(self, number, query):
        """The sentence with the most of the wanted words, rare ones first."""
        wanted = set(words(query))
        sentences = re.split(r"(?<=[.!?])\s+", self.documents[number]["text"])
        return max(sentences, key=lambda sentence: sum(
            self.rarity(word) for word in wanted & set(words(sentence))))


INDEX = Index(json.loads(Path(__file__).with_name("documents.json").read_text(encoding="utf-8")))


def main(payload):
    query = payload["query"]
    limit = min(int(payload.get("limit", 3)), HITS_MAX)
    ranked = INDEX.rank(query)
    return {
        "query": query,
        "found": len(ranked),
        "hits": [
            {"title": INDEX.documents[number]["title"], "score": round(score, 3),
             "snippet": INDEX.snippet(number, query)}
            for score, number in ranked[:limit]
        ],
    }
