"""Judges of pairs that are functions of the question."""

import json
import threading

from step1x_jax.asking.exchange import Reply, Served


class MadeUp:
    """A judge that answers by a function of the question; counts what it is asked."""

    host = "here"

    def __init__(self, decide, model="m"):
        self.parameters = {"model": model}
        self.asked = []
        self._decide, self._lock = decide, threading.Lock()

    def answer(self, ask, attempt):
        with self._lock:
            self.asked.append(ask)
        text = self._decide(ask)
        if isinstance(text, Exception):
            raise text
        return Reply(text, model="m-1", input_tokens=100, output_tokens=10)

    def describe(self):
        return Served(provider="somebody")

    def close(self):
        pass


def always(word):
    return lambda ask: json.dumps({"winner": word})


def by_name(ask):
    """Prefers the method whose name comes first, wherever it stands."""
    verdict = ask.subject
    return json.dumps({"winner": "Image A" if verdict.first < verdict.second else "Image B"})
