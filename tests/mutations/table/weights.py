"""Mutations of step1x_jax/weights/."""

from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/weights/diffusers_folder.py", "tests/weights/layouts/test_diffusers.py"): [
        ("scale_factor without its one", "_folded",
         "1 + scale.astype(np.float32)", "scale.astype(np.float32)"),
        ("folding without a word", "_folded",
         "dict(tensors.metadata) | {'note': FOLDED}", "dict(tensors.metadata)"),
        ("format stays in the metadata", "as_official", "name != 'format'", "True"),
    ],
    ("step1x_jax/weights/diffusers_folder.py", "tests/launch/test_convert.py"): [
        ("folders of any class", "read_json_of",
         "if kind not in (TRANSFORMER, FLUX, AUTOENCODER):", "if False:"),
    ],
    ("step1x_jax/weights/readers.py", "tests/weights/layouts/test_diffusers.py"): [
        ("parts of two dtypes in the first's", "Rearranged.__init__",
         "np.dtype(np.float32)", "source.dtypes[moves[0].here]"),
    ],
    ("step1x_jax/weights/readers.py", "tests/weights/test_readers.py"): [
        ("rows from the start", "Rearranged._moved", "move.here_at + wanted", "wanted"),
        ("rows of the first part", "Rearranged.read", "wanted = wanted - move.there_at", "pass"),
        ("rearranged: all is read", "Rearranged._moved", "self._source.read(move.here, rows)",
         "self._source.read(move.here)[move.here_at + wanted]"),
        ("parts in the order of the moves", "Rearranged.__init__",
         "moves.sort(key=lambda move: move.there_at)", "pass"),
        ("rearranged: shapes as they were", "Rearranged.read",
         "joined.reshape(len(joined), *self.shapes[name][1:])", "joined"),
        ("changed: all is read", "Changed.read",
         "self._source.read(name, rows)", "self._source.read(name)[... if rows is None else rows]"),
        ("changed: rows of the new one", "Changed.read",
         "array if rows is None else array[rows]", "array"),
        ("cast: all is read", "Cast.read",
         "self._source.read(name, rows)", "self._source.read(name)[... if rows is None else rows]"),
        ("cast: rounded to what it was", "Cast.__init__", "np.dtype(dtype)", "source.dtypes[name]"),
        ("not checked first", "CheckedFirst.read", "self._check()", "pass"),
        ("checked at each reading", "CheckedFirst.read", "self._checked = True", "pass"),
    ],
    ("step1x_jax/weights/published.py", "tests/weights/test_readers.py"): [
        ("published: all is read", "Published.read",
         "if rows is not None and entry.axis == 0:", "if False:"),
        ("published: rows of the first part", "Published._rows", "... - where[0].start", "..."),
        ("published: parts on top of each other", "Published.read",
         "np.concatenate(pieces, axis=entry.axis)",
         "np.concatenate([piece.reshape(-1) for piece in pieces]).reshape(entry.shape)"),
    ],
    ("step1x_jax/weights/open.py", "tests/weights/test_matrix.py"): [
        ("the average is not asked for", "open_weights", "ema=ema", ""),
        ("a run of adapters as its base", "open_weights",
         "sums.append((run.adapters(), 1.0))", "pass"),
        ("base of 8 bits rounded", "_base_of", "exact=float32", "exact=False"),
        ("FLUX.1 without what it lacks", "open_weights",
         "if weights.kind.holds == 'flux' and flux is not None:", "if False:"),
        ("FLUX.1 edited with", "check_is_model", "if weights.kind.holds == 'flux':", "if False:"),
        ("autoencoder taken for a model", "check_is_model",
         "if weights.kind.holds == 'autoencoder':", "if False:"),
    ],
    ("step1x_jax/weights/open.py", "tests/launch/test_edit_weights.py"): [
        ("anything as a LoRA", "open_lora", "if kind.holds != 'adapters':", "if False:"),
    ],
    ("step1x_jax/weights/open.py", "tests/weights/test_open.py"): [
        ("base as it is stored", "_base_of",
         "Cast(below.tensors, np.dtype(jnp.dtype(model.param_dtype)))", "below.tensors"),
        ("base not compared", "_base_of",
         "CheckedFirst(tensors, partial(check_base, run, tensors))", "tensors"),
        ("exact sums rounded", "open_weights",
         "{f'{module}.weight': np.dtype(np.float32) for module in modules}", "{}"),
        ("8 bits always as bfloat16", "_open_files", "file, 'float32'", "file"),
        ("8 bits not read", "_open_files", "as_numbers(file)", "file"),
        ("8 bits rounded before the sum", "open_weights", "bool(loras)", ""),
        ("sums of 8 bits in float32", "open_weights", "if rounded is not None:", "if False:"),
        ("average of a file", "open_weights", "if ema:", "if False:"),
        ("base of a file", "open_weights", "if base and not sums:", "if False:"),
        ("LoRAs of an autoencoder", "open_weights",
         "if loras and weights.kind.holds != 'model':", "if False:"),
        ("adapters of another model", "open_lora",
         "if weight is None or weight.shape != shape:", "if False:"),
    ],
    ("step1x_jax/weights/open.py", "tests/weights/test_load.py"): [
        ("only the last LoRA", "open_weights",
         "for lora, scale in loras:", "for lora, scale in loras[-1:]:"),
    ],
    ("step1x_jax/weights/places.py", "tests/weights/test_matrix.py"): [
        ("pipelines of any class", "_check_pipeline", "if name not in PIPELINES:", "if False:"),
        ("a pipeline without its autoencoder", "places_of",
         "'vae', 'autoencoder'", "'autoencoder'"),
    ],
    ("step1x_jax/weights/places.py", "tests/weights/test_kinds.py"): [
        ("encoder of another program", "places_of", "'text_encoder'", ""),
        ("parts behind a file", "places_of", "path if path.is_dir() else path.parent", "path"),
    ],
    ("step1x_jax/weights/kinds.py",
     "tests/weights/test_matrix.py::test_what_is_only_recognised_says_so_in_every_use"): [
        ("other models unseen", "kind_of", "if _has(marks, tensors):", "if False:"),
        ("other adapters unseen", "kind_of",
         "filter(None, map(other_adapter, tensors.shapes))", "()"),
    ],
    ("step1x_jax/weights/kinds.py", "tests/weights/test_kinds.py"): [
        ("older LoRAs of diffusers", "", "(r'\\.lora(_linear_layer)?\\.down(\\.[^.]+){0,2}$',)",
         "(r'\\.lora_linear_layer\\.down(\\.[^.]+){0,2}$',)"),
    ],
    ("step1x_jax/weights/flux.py", "tests/weights/test_flux.py"): [
        ("text layers always taken", "start_from_flux",
         "how.fresh_text and n.startswith(TEXT)", "False"),
        ("guidance left in", "start_from_flux", "dict.fromkeys(left_over)", "{}"),
        ("another seed", "_Drawn.read", "nnx.Rngs(seed)", "nnx.Rngs(0)"),
    ],
    ("step1x_jax/weights/save.py", "tests/weights/test_load.py"): [
        ("sizes not written", "write_file", "sizes != release", ""),
        ("config.json beside with other values", "_check_same", "if one != other:", "if False:"),
        ("written unseen", "write_file", "Finite(tensors, path)", "tensors"),
    ],
    ("step1x_jax/weights/load.py", "tests/weights/test_load.py"): [
        ("all in one dtype", "load_model",
         "as_stored(params, model_table(config), weights.tensors.dtypes)", "params"),
    ],
    ("step1x_jax/weights/filling.py", "tests/weights/run/test_writer.py"): [
        ("tensors read for each part", "our_blocks", "tensor[where]", "tensors.read(name)[where]"),
    ],
    ("step1x_jax/weights/filling.py", "tests/weights/test_filling.py"): [
        ("columns read by each device", "_fill",
         "rows.tobytes()", "rows.tobytes() + bytes(len(wanted))"),
        ("host keeps what is placed", "filled", "gc.collect(0)", "pass"),
        ("layers not counted from the box's", "_fill", "part.layer - box[0].start", "part.layer"),
    ],
    ("step1x_jax/weights/copying.py", "tests/weights/test_copying.py"): [
        ("cut rows one by one", "put", "near == view.ndim - 1", ""),
        ("small matrices one by one", "put", "if view.shape[near] >= STRIPE:", "if True:"),
        ("all matrices at once", "put", "if view.shape[near] >= STRIPE:", "if False:"),
    ],
    ("step1x_jax/weights/info.py", "tests/launch/test_convert.py"): [
        ("LoRA described by its names alone", "_adapters",
         "settings = LoraFile(file.path, model_table(sizes)).settings", "raise UserError('no')"),
    ],
    ("step1x_jax/weights/language_model.py", "tests/weights/layouts/test_qwen.py"): [
        ("lm_head wanted", "open_mllm", "name.startswith(UNUSED)", "not name"),
    ],
    ("step1x_jax/weights/checks.py", "tests/weights"): [
        ("missing tensors", "check_tensors",
         "for name in table if name not in shapes", "for name in ()"),
        ("unexpected tensors", "check_tensors",
         "for name in shapes if name not in table", "for name in ()"),
        ("shapes not compared", "check_tensors",
         "shapes[name] != entry.shape", "len(shapes[name]) != len(entry.shape)"),
        ("integers taken for weights", "check_tensors",
         "not jnp.issubdtype(dtype, np.floating)", "False"),
        ("float16 as bfloat16", "common_dtype",
         "set(dtypes) <= {np.dtype(jnp.bfloat16)}", "np.dtype(np.float32) not in set(dtypes)"),
    ],
    ("step1x_jax/weights/finite.py", "tests/weights/files/test_safetensors_io.py"): [
        ("first numbers alone", "is_finite", "range(0, len(bits), AT_ONCE)", "(0,)"),
    ],
    ("step1x_jax/weights/quantizing.py", "tests/training/test_trainable_split.py"): [
        ("base beside its 8 bits", "quantizing", "kernel.delete()", "pass"),
    ],
}
