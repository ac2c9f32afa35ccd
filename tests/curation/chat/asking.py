"""Stages that ask, without a pipeline: what they make of rows, and how often they asked."""

import itertools
import json

from step1x_jax.curation.engine.rows import Context
from step1x_jax.curation.engine.stage import outcomes_of
from tests.asking.chat_server import completion

QUICK = {"model": "toy", "first_wait": 0.001, "timeout": 5.0, "concurrency": 4}


def made(stage, rows, folder):
    """Outcomes of each row, and how many requests were counted."""
    stage.validate()
    context = Context(seed=0, stage="s", part="p", folder=str(folder))
    outcomes = [outcomes_of(one, stage.many) for one in stage.open()(rows, context)]
    return outcomes, context.calls["requests"]


def as_reply(value):
    """A completion of a JSON value."""
    return completion(json.dumps(value, ensure_ascii=False))


def schema_of(request):
    """The JSON schema that a request carries."""
    return request.body["response_format"]["json_schema"]["schema"]


def in_turn(*replies):
    """A script: these to one request after another, the last one ever after."""
    coming = itertools.chain(replies, itertools.repeat(replies[-1]))
    return lambda request: next(coming)
