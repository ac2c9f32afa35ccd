"""Mutations of step1x_jax/weights/run/."""

from tests.mutations.suites import LORA, OTHER_BASE
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/weights/run/base.py", "tests/launch/test_edit_weights.py"): [
        ("a base that is gone", "find_base", "not epath.Path(source).exists()", ""),
    ],
    ("step1x_jax/weights/run/base.py", "tests/weights/test_open.py"): [
        ("base where it was", "find_base", "given or ...", "..."),
    ],
    ("step1x_jax/weights/run/base.py",
     f"{LORA}::test_adapters_without_a_base_take_the_one_that_is_given"): [
        ("base of a LoRA of others", "check_base", "if not description.base:", "if False:"),
    ],
    ("step1x_jax/weights/run/base.py", "tests/weights/run/test_base.py"): [
        ("the base's blocks in one place", "describe_parameters", "[layer]", "[0]"),
    ],
    ("step1x_jax/weights/run/writer.py", "tests/weights/run/test_writer.py"): [
        ("blocks of two dtypes", "_check_dtypes",
         "if tensors.dtypes[other] != tensors.dtypes[first]:", "if False:"),
        ("blocks one over another", "write_weights_folder", "part.layer", ""),
        ("places of blocks not noted", "write_weights_folder", "[layer]", "[0]"),
        ("a full disk as a crash", "_system_errors",
         "if (reason := write_failure_reason(e)) is None:", "if True:"),
    ],
    ("step1x_jax/weights/run/reader.py", "tests/weights/run/test_reader.py"): [
        ("bits not compared block by block", "_verify",
         "if not matches(about, {**about, 'fingerprint': bits}):", "if False:"),
        ("the newest checkpoint alone", "RunFolder.read_newest",
         "for step in steps:", "for step in steps[:1]:"),
        ("older weights without a word", "RunFolder.read_newest", "self._say", "str"),
        ("files that went as a crash", "_StoredArray.__getitem__",
         "except ValueError as e:", "except ZeroDivisionError as e:"),
        ("layers in one place", "_RawFile.__getitem__", "0 if layer is ... else layer * size", "0"),
        ("cut rows in the first place", "_RawFile.write", "i * row", "0"),
        ("cut columns in the first place", "_RawFile.write",
         "index[1:]", "tuple(slice(0, n) for n in part.shape)"),
    ],
    ("step1x_jax/weights/run/reader.py", "tests/weights/run/test_damage.py"): [
        ("arrays of another config", "_check_same_arrays",
         "if saved.keys() != parameters.keys():", "if False:"),
    ],
    ("step1x_jax/weights/run/reader.py", "tests/weights/test_open.py"): [
        ("parameters for their average", "RunFolder._item",
         "'ema' if self._ema else about.trained", "about.trained"),
        ("an average that is not there", "RunFolder._item",
         "if self._ema and 'ema' not in about.arrays:", "if False:"),
    ],
    ("step1x_jax/weights/run/reader.py", "tests/test_package.py"): [
        ("Orbax is imported for all", "", "if TYPE_CHECKING:", "if True:"),
    ],
    ("step1x_jax/weights/run/stored_arrays.py", "tests/weights/run/test_reader.py"): [
        ("the first block alone", "block_indices",
         "yield from itertools.product(*cuts)", "yield next(itertools.product(*cuts))"),
        ("whole arrays", "save_context", "BLOCK_BYTES", "None"),
        ("compressed", "save_context", "context.array.saving.use_compression = False",
         "context.array.saving.use_compression = True"),
    ],
    ("step1x_jax/weights/run/stored_arrays.py", "tests/weights/run/test_stored_arrays.py"): [
        ("blocks of any size", "_split_block",
         "while math.prod(sizes) * itemsize > BLOCK_BYTES:", "while False:"),
        ("all blocks under way", "block_writer", "under_way and ...", "False and ..."),
        ("writings waited for at once", "block_writer",
         "under_way.append((future, block.nbytes))", "future.result()"),
        ("writings that go on after an error", "block_writer", "future.exception()", "pass"),
        ("the last errors of writing", "block_writer",
         "while under_way:\n    under_way.popleft()[0].result()",
         "while under_way:\n    under_way.popleft()[0].exception()"),
        ("not read ahead", "read_blocks", "len(coming) > 1", "coming"),
        ("all read ahead", "read_blocks", "... > BLOCK_BYTES", "... > 1e99"),
    ],
    ("step1x_jax/weights/run/fingerprints.py", "tests/training/test_trainable_split.py"): [
        ("base not described", "make_fingerprinter",
         "infos[join_path(path)] = describe_arrays({'': array})['']", "del array"),
    ],
    ("step1x_jax/weights/run/fingerprints.py", "tests/weights/run/test_fingerprints.py"): [
        ("places do not count", "_hash", "bits ^ (place * _SPREAD)", "bits"),
        ("sums alone compared", "matches", "for a, b in bits", "for a, b in list(bits)[:1]"),
        ("blocks without their place", "fingerprint_of", "bits, first", "bits, 0"),
        ("rows without their place", "_sums_of_rows", "first + i * stride", "first"),
        ("columns without their place", "_sums_of_rows",
         "first + i * stride + j", "first + i * stride"),
        ("rows of a chunk in one place", "_sums_of_rows",
         "np.arange(height)[:, None] * stride", "np.arange(height)[:, None] * 0"),
        ("blocks of a block in one place", "_sums", "first + i * stride", "first"),
    ],
    ("step1x_jax/weights/run/restoring.py", "tests/training/checkpoint/test_checkpoints.py"): [
        ("fingerprint not compared", "load_items",
         "if not matches(about.arrays[item][name], found):", "if False:"),
    ],
    ("step1x_jax/weights/run/earlier.py", "tests/weights/run/test_stored.py"): [
        ("another third", "find_origin", "'qkv'.index(fused[2])", "'kqv'.index(fused[2])"),
        ("axis of an up as of a kernel", "find_origin", "-4 if fused[3] == 'kernel' else -3", "-4"),
        ("shared halves under their old name", "find_origin",
         "name[:shared.start()] + 'attn.qkv.adapter.down'", "name"),
        ("axes cut elsewhere", "_group_axes", "not group or math.prod(group) != size", "not group"),
        ("moments of another shape", "abstract_earlier", "if '.moments.' in name:", "if False:"),
        ("q alone", "describe_earlier", "before + sums[0]", "sums[0]"),
    ],
    ("step1x_jax/weights/run/stored_arrays.py", "tests/weights/run/test_writer.py"): [
        ("zeros left out", "create_arrays", "'store_data_equal_to_fill_value': True",
         "'store_data_equal_to_fill_value': False"),
    ],
    ("step1x_jax/weights/run/description.py", OTHER_BASE): [
        ("any base", "different_base", "not matches(saved[n], x)", ""),
    ],
    ("step1x_jax/weights/run/description.py", "tests/weights/run/test_damage.py"): [
        ("older fingerprints", "read_description",
         "array['fingerprint'] = [array['fingerprint']]", "pass"),
        ("dtypes of any kind", "_check_dtypes", "if array['dtype'] not in DTYPES:", "if False:"),
        ("models that cannot be", "read_description", "result.model.validate()", "pass"),
    ],
    ("step1x_jax/weights/run/description.py", "tests/weights/run/test_stored.py"): [
        ("one older version", "read_description",
         "if version not in READ:", "if version != SCHEMA_VERSION:"),
        ("newer ones as older ones", "read_description",
         "if version > SCHEMA_VERSION:", "if False:"),
    ],
    ("step1x_jax/weights/run/description.py", "tests/training/checkpoint/test_checkpoints.py"): [
        ("dtype not compared", "check_same_arrays",
         "f'{x.dtype}{list(x.shape)}'", "summary(saved[name]) if name in saved else 'here'"),
    ],
    ("step1x_jax/weights/run/damage.py", "tests/weights/run/test_damage.py"): [
        ("rights as damage", "_environment_reason",
         "None if is_remote(path) else _unreadable(path)", "None"),
        ("errors of the disk as damage", "_environment_reason",
         "if isinstance(one, OSError) and not missing and one.errno not in DAMAGE_ERRNOS:",
         "if isinstance(one, OSError) and False:"),
        ("errors of tensorstore as damage", "_environment_reason",
         "if int(code[1]) not in DAMAGE_ERRNOS:", "if False:"),
        ("reasons inside others unseen", "_chain",
         "todo += [one.__cause__, one.__context__, *getattr(one, 'exceptions', ())]",
         "[one.__cause__, one.__context__, *getattr(one, 'exceptions', ())]"),
    ],
    ("step1x_jax/weights/run/folder.py", "tests/weights/run/test_damage.py"): [
        ("digits of other scripts", "list_steps",
         "re.fullmatch(r'0|[1-9][0-9]{0,17}', name)", "name.isdigit()"),
        ("over an older damaged one", "set_aside",
         "not os.path.lexists(path.parent / name)", "True"),
    ],
    ("step1x_jax/weights/run/folder.py", "tests/training/test_loop.py"): [
        ("brackets", "check_can_save", "re.search(r'[*?]|\\[.*\\]', text)", "False"),
    ],
    ("step1x_jax/weights/run/folder.py", "tests/training/checkpoint/test_checkpoint_gcs.py"): [
        ("steps by listing alone", "list_steps", "steps |= set(_notes(folder).saved)", "pass"),
        ("what is not committed", "list_steps",
         "(folder / str(step) / COMMITTED).exists()", "step"),
        ("damage in a bucket forgotten", "set_aside",
         "record_step(path.parent, 'damaged', int(path.name))", "pass"),
        ("not listed is damaged", "check_listed",
         "if is_remote(folder) and not folder.is_dir() and (folder / file).exists():",
         "if is_remote(folder) and False:"),
    ],
}
