"""Mutations of step1x_jax/conditioning/."""

from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/conditioning/encoder.py", "tests/editing/test_forms.py"): [
        ("variants of an index missing", "missing_files", "not indices(folder)", ""),
    ],
    ("step1x_jax/conditioning/encoder.py", "tests/conditioning/test_encoder.py"): [
        ("prefix not dropped", "_kept",
         "jnp.asarray(states)[:, dropped : dropped + limit]", "jnp.asarray(states)[:, :limit]"),
        ("rubbish behind the end", "_kept", "jnp.where(is_text[..., None], states, 0)", "states"),
        ("read twice", "QwenEncoder.encode", "{id(i): i for i in images}.values()", "images"),
    ],
    ("step1x_jax/conditioning/encoder.py", "tests/conditioning/test_stored_reading.py"): [
        ("older files without the label", "stored_reading",
         "{'picture_label': True} | stored", "stored"),
    ],
    ("step1x_jax/conditioning/encoder_jax.py", "tests/conditioning/test_encoder.py"): [
        ("a program for each shape", "JaxLanguageModel.__call__", "(TOKENS,)", "(1,)"),
        ("batch not filled up", "JaxLanguageModel.__call__", "-(-b // parts) * parts", "b"),
        ("whole model on each device", "load_jax", "if mesh is not None:", "if False:"),
    ],
    ("step1x_jax/conditioning/processor.py", "tests/conditioning/test_encoder.py"): [
        ("limits of the folder", "Processor.__init__", "size=limits", ""),
        ("long and thin", "Processor.__call__", "UserError", "KeyError"),
    ],
    ("step1x_jax/conditioning/processor.py", "tests/conditioning/test_model_files.py"): [
        ("settings not compared", "_check_settings",
         "if given is not None and not _same(given, value):", "if False:"),
        ("newer files unread", "settings_file", "FILE, NEWER_FILE", "FILE"),
    ],
    ("step1x_jax/conditioning/processor.py", "tests/test_package.py"): [
        ("transformers is imported", "",
         "import numpy as np", "import numpy as np\nimport transformers"),
    ],
    ("step1x_jax/conditioning/tokenizer.py", "tests/conditioning/test_model_files.py"): [
        ("truncation obeyed", "load_tokenizer", "tokenizer.no_truncation()", "pass"),
        ("padding obeyed", "load_tokenizer", "tokenizer.no_padding()", "pass"),
        ("ids without embeddings", "load_tokenizer", "highest >= vocabulary", "False"),
        ("any pattern is run", "_check_kind", "pattern != PATTERN", "False"),
        ("not read back", "load_tokenizer", "if read_back != PROBE:", "if False:"),
    ],
    ("step1x_jax/conditioning/colours.py", "tests/conditioning/test_colours.py"): [
        ("sideways", "_upright", "ImageOps.exif_transpose(image)", "image.copy()"),
        ("profiles ignored", "_in_srgb",
         "if isinstance(profile, bytes) and profile and image.mode != 'LAB':",
         "if False and image.mode != 'LAB':"),
        ("hidden colours", "to_srgb", "image.size, 'white'", "image.size, 'black'"),
        ("deep pictures clipped", "decode_upright", "if image.mode not in MODES:", "if False:"),
        ("sizes unchecked", "decode_upright", "check_size(*image.size, name)", "pass"),
        ("anything that Pillow opens", "decode_upright", "image.format in RUN_PROGRAMS", "False"),
        ("metadata kept", "to_srgb", "{}", "image.info"),
    ],
    ("step1x_jax/conditioning/input_files.py", "tests/conditioning/test_images.py"): [
        ("addresses of the web", "check_protocol",
         "if there and protocol not in STORES:", "if False:"),
        ("more than fits", "_check_regular", "if status.st_size > limit:", "if False:"),
    ],
    ("step1x_jax/conditioning/prompt.py", "tests/conditioning/test_published_mask.py"): [
        ("no mask", "Prompt.__init__", "0 if quoting == 'published' else None", "None"),
    ],
    ("step1x_jax/conditioning/prompt.py", "tests/conditioning/test_prompt.py"): [
        ("always the label", "Prompt.__init__",
         "CHAT_BEFORE_IMAGE if picture_label else ...", "CHAT_BEFORE_IMAGE if True else ..."),
        ("one position more", "Prompt.__init__", "CHAT_START.removesuffix(':')", "CHAT_START"),
        ("placeholders let through", "Prompt.ids_from_vision_end", "self._video_id in ids", ""),
        ("apostrophes are no quotes", "", '"“”\'", \'"\'', '\'“”\', \'"\''),
    ],
    ("step1x_jax/conditioning/cache.py", "tests/conditioning/test_cache.py"): [
        ("key without instruction", "CachedEncoder._key", "instruction", ""),
        ("key without settings", "CachedEncoder._key", "self._settings", ""),
        ("key without size", "CachedEncoder._key", "picture.size", ""),
        ("never makes room", "CachedEncoder._make_room", "if total <= self._limit:", "if True:"),
        ("use not noted", "CachedEncoder._read", "path.touch()", "pass"),
    ],
    ("step1x_jax/conditioning/images.py", "tests/conditioning/test_images.py"): [
        ("height rounded down", "image_size",
         "math.ceil(new_width / ratio)", "math.floor(new_width / ratio)"),
        ("pixels from 0", "to_array", "np.asarray(image.convert('RGB'), np.float32) / 127.5 - 1",
         "np.asarray(image.convert('RGB'), np.float32) / 255"),
    ],
    ("step1x_jax/conditioning/picture_row.py", "tests/conditioning/test_picture_row.py"): [
        ("boxes for letters", "_font_for", "not unknown(own)", "True"),
        ("result on the left", "picture_row", "left, margin", "margin, margin"),
        ("long texts not cut", "_lines", "if len(lines) > MOST_LINES:", "if False:"),
    ],
}
