"""Mutations of step1x_jax/asking/."""

from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/asking/replies.py", "tests/asking/test_replies.py"): [
        ("the first thought counts", "strip_reasoning",
         "text.rpartition('</think>')", "text.partition('</think>')"),
        ("objects in backticks are none", "parse_reply",
         "_unfenced(strip_reasoning(text))", "strip_reasoning(text)"),
    ],
    ("step1x_jax/asking/cache.py", "tests/evaluation/judging/test_presets.py"): [
        ("stored replies under other keys", "cache_key",
         "allow_nan=False", "allow_nan=False, ensure_ascii=False"),
    ],
    ("step1x_jax/asking/cache.py", "tests/asking/test_cache.py"): [
        ("stored replies of another form", "ReplyCache.append", "id, asked", "id, reply.model"),
        ("half a line stays", "open_cache", "os.ftruncate(descriptor, end)", "pass"),
        ("repeats are one question", "cache_key", "'repeat': ask.repeat", ""),
        ("pictures are alike", "cache_key", "part.fingerprint", ""),
        ("any model", "ReplyCache.append",
         "if reply.model and reply.model != before:", "if False:"),
        ("two runs in one file", "open_cache",
         "with exclusive(path.parent / f'{NAME}.lock', message):",
         "with contextlib.nullcontext():"),
        ("late replies are written", "ReplyCache.append",
         "if self._descriptor is None:", "if False:"),
    ],
    ("step1x_jax/asking/ask.py", "tests/asking/test_ask.py"): [
        ("kept replies are no attempts", "_attempt_all", "len(kept)", ""),
        ("equal questions are asked at once", "ask_all", "if key in twins:", "if False:"),
        ("nobody is there, go on", "ask_all", "if silent >= MOST_SILENT:", "if False:"),
        ("hopeless questions again", "_attempt_all", "if not e.again:", "if False:"),
        ("a wait for one", "_attempt_all", "pace.hold(e.wait, str(e))", "pass"),
        ("the last kept reply decides", "_known",
         "range(len(replies))", "range(len(replies))[-1:]"),
    ],
    ("step1x_jax/asking/pace.py", "tests/asking/test_ask.py"): [
        ("as fast as it goes", "Pace.wait", "slot + self._gap", "slot"),
        ("waits without bound", "backoff", "min(..., longest)", "min(..., 1e9)"),
        ("waits a day", "Pace.hold", "if seconds > self._longest:", "if False:"),
    ],
    ("step1x_jax/asking/pool.py", "tests/asking/test_chat.py"): [
        ("others begin after the end", "WorkerPool._run", "self._stopping.set()", "pass"),
    ],
    ("step1x_jax/asking/chat.py", "tests/asking/test_chat.py"): [
        ("the key goes anywhere", "ChatClient.__init__", "preset.endpoint == OPENAI", "True"),
        ("the key in a message", "ChatClient._without_key",
         "body.replace(self._key.encode(), b'...')", "body"),
        ("a drop now and then is in time", "ChatClient._send",
         "if time.monotonic() > until:", "if False:"),
        ("filters speak for the model", "ChatClient._read", "end.lower() in _FILTERED", ""),
        ("the same seed again", "ChatClient._request",
         "self.preset.seed + SEEDS_APART * ask.repeat + attempt", "self.preset.seed"),
    ],
    ("step1x_jax/asking/failures.py", "tests/asking/test_chat.py"): [
        ("no money, ask on", "no_reply", "not set(failure.codes).isdisjoint(_NO_MONEY)", ""),
        ("parameters that are refused", "no_reply",
         "if status < 500 and failure.parameter in sent:", "if False:"),
        ("an hour for a second", "read_retry_after",
         "None if math.isnan(seconds) else max(seconds, 0.0)", "seconds"),
    ],
    ("step1x_jax/asking/pictures.py", "tests/asking/test_pictures.py"): [
        ("smaller pictures grow", "shrunk_size",
         "min(LONGEST_SIDE / max(size), 1)", "LONGEST_SIDE / max(size)"),
        ("sizes are alike", "picture_to_send",
         "f'{size[0]}x{size[1]} {preset.picture_format} {options}'",
         "f'{preset.picture_format} {options}'"),
    ],
}
