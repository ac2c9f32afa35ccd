"""Mutations of step1x_jax/data/."""

from tests.mutations.suites import LISTS
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/data/manifest.py", "tests/test_changelog.py"): [
        ("a form of which the changelog says nothing", "", "VERSION = 3", "VERSION = 4"),
    ],
    ("step1x_jax/data/manifest.py", "tests/data/test_shards.py"): [
        ("bad weights", "_build_manifest",
         "if weights and len(weights) < len(fields.sources):", "if False:"),
        ("unknown sources", "_build_manifest",
         "if not all(shard.source < len(fields.sources) for shard in shards):", "if False:"),
        ("newer manifests", "read_manifest", "version > VERSION", "version > VERSION + 1"),
        ("counts changed by hand", "_build_shard",
         "if version > 2 and check != _hash_shard_facts(shard):", "if False:"),
        ("a shard twice", "_build_manifest", "if len(set(names)) < len(names):", "if False:"),
        ("shards elsewhere", "_build_shard", "'/' in shard.file", ""),
        ("fingerprint without content", "records_fingerprint", "shard.digest", "''"),
    ],
    ("step1x_jax/data/pipeline.py", "tests/data/test_pipeline.py"): [
        ("shard off by one", "RecordSequence.__getitem__",
         "bisect.bisect_right", "bisect.bisect_left"),
        ("process slice", "make_batches",
         "shares[process_index::process_count]", "shares[::process_count]"),
        ("buckets shuffled alike", "_open_buckets", "number + i * len(buckets)", ""),
        ("no dropout", "_assemble", "die >= dropout", "die >= 0"),
        ("weights of data sets ignored", "_find_records", "config.weights", ""),
        ("shards of the first data set", "OpenShards._open", "shard.source", "0"),
        ("shapes that fill a batch named", "_warn_of_small_buckets",
         "if records < size:", "if records:"),
        ("small pictures do not fill", "make_batches",
         "config.batch_size * times", "config.batch_size"),
        ("mixed whatever they were made with", "_check_made_alike",
         "if not same_setting(name, there, first.get(name, there)):", "if False:"),
        ("processes drop alike", "_assemble",
         "dice[first : first + len(records)]", "dice[: len(records)]"),
        ("steps drop alike", "_assemble", "step", ""),
        ("negatives not used", "_assemble",
         "record.text if ... else record.negative_text", "record.text"),
        ("shuffle seed", "_open_buckets", "seed, 'shuffle'", "0, 'shuffle'"),
        ("lengths of the padding", "_assemble",
         "[len(text) for text in texts]", "[text_length for _ in texts]"),
        ("start_step ignored", "make_batches", "steps[start_step:]", "steps[0:]"),
        ("target is source", "_assemble", "record.target", "record.source"),
        ("any number of bad records", "DamageTolerance.count",
         "if count > self._limit:", "if count > 100:"),
        ("pools drawn alike", "_open_buckets", "pool.share", "1"),
    ],
    ("step1x_jax/data/mixing.py", "tests/data/test_pipeline.py"): [
        ("rounds alike", "BucketPlan._make_round", "number", ""),
        ("rates of records", "_compute_rates", "w / sum(weights) / max(n, 1)", "w / sum(weights)"),
        ("turns by records", "count_turns", "if manifest.sources[0].weight is None:", "if True:"),
        ("turns of equal batches", "count_turns", "... // times", "..."),
        ("shares of equal batches", "count_turns",
         "TURNS_PER_ROUND * share / times", "TURNS_PER_ROUND * share"),
        ("text takes no room", "compute_batch_multiples",
         "2 * h * w // PATCH**2 + text_length", "2 * h * w // PATCH**2"),
        ("own weights lost", "mix_manifests", "total * share", "total"),
        ("dropout not raised", "compute_drop_rate",
         "caption_dropout / fraction", "caption_dropout"),
        ("fraction by records", "compute_drop_rate",
         "rates[shard.source] * shard.negatives", "shard.negatives / manifest.records"),
    ],
    ("step1x_jax/data/records.py", "tests/data/test_records.py"): [
        ("newer records", "decode_record",
         "if version > SCHEMA_VERSION:", "if version > SCHEMA_VERSION + 1:"),
    ],
    ("step1x_jax/data/shards.py", "tests/data"): [
        ("longest text forgotten", "_OpenShard.write",
         "max(info.longest_text, record.longest_text)", "record.longest_text"),
        ("wrong bucket", "ShardReader._find_mismatch",
         "if record.source.shape[:2] != tuple(info.latent_size):", "if False:"),
        ("failing disks are damage", "ShardReader.__getitem__",
         "_SYSTEM_CALL.search(str(e))", "None"),
        ("negatives not compared", "ShardReader._find_mismatch",
         "negative and not info.negatives", "False"),
    ],
    ("step1x_jax/data/buckets.py", "tests/data/test_buckets.py"): [
        ("nearest by difference", "find_nearest_bucket",
         "math.log(width / height * b[1] / b[0])", "width / height - b[0] / b[1]"),
    ],
    ("step1x_jax/data/local_copy.py", "tests/data/test_object_store.py"): [
        ("old copies kept", "_is_copied", "note.read_text() == wanted", ""),
        ("copied by every process", "_lock_folder", "fcntl.flock(file, fcntl.LOCK_EX)", "pass"),
        ("short copies taken", "_fetch", "if file_size(temporary) != shard.bytes:", "if False:"),
    ],
    ("step1x_jax/data/dataset_schemas.py", "tests/data/test_sources.py"): [
        ("half a schema is enough", "find_schema",
         "if not list_missing_fields(schema, names):",
         "if len(list_missing_fields(schema, names)) < 3:"),
        ("names without suffix only", "find_picture_field", "field + FILE_NAME_SUFFIX", "field"),
        ("several pictures at once", "_read_picture_path", "if len(value) != 1:", "if not value:"),
        ("always the first paraphrase", "_choose_paraphrase",
         "int.from_bytes(digest[:8], 'big') % len(value)", "0"),
        ("paraphrases by chance", "_choose_paraphrase",
         "name.encode(errors='surrogatepass')", "__import__('os').urandom(8)"),
        ("empty paraphrases", "_choose_paraphrase", "text.strip()", ""),
        ("any list as paraphrases", "extract_edit_fields", "if schema.paraphrases:", "if True:"),
        ("id of one field", "extract_edit_fields", "schema.id", "schema.id[:1]"),
    ],
    ("step1x_jax/data/dataset_schemas.py", "tests/data/test_odd_files.py"): [
        ("pictures in JSON", "_read_picture_path", "_BASE64.match(value)", "False"),
        ("web addresses in lists", "_read_picture_path",
         "if rest and scheme not in STORES:", "if False:"),
    ],
    ("step1x_jax/data/json_readers.py", "tests/data/test_sources.py"): [
        ("MagicBrush without folders", "_magicbrush_path",
         'f"images/{name.split(\'-\')[0]}/{name}"', "f'images/{name}'"),
        ("InstructPix2Pix turned round", "read_instructpix2pix_rows",
         "'source': f'{seed}_0.jpg', 'target': f'{seed}_1.jpg'",
         "'source': f'{seed}_1.jpg', 'target': f'{seed}_0.jpg'"),
    ],
    ("step1x_jax/data/json_readers.py", "tests/data/test_odd_files.py"): [
        ("half characters", "_check_unicode", "half = ascii(e.object[e.start])[1:-1]",
         "return row\nhalf = ascii(e.object[e.start])[1:-1]"),
    ],
    ("step1x_jax/data/sources.py", "tests/data/test_sources.py"): [
        ("metadata of InstructPix2Pix", "",
         "('prompt.json', read_instructpix2pix_rows), ('metadata.jsonl', read_json_lines)",
         "('metadata.jsonl', read_json_lines), ('prompt.json', read_instructpix2pix_rows)"),
        ("files in reverse", "_find_files", "found[pattern]", "found[pattern], reverse=True"),
        ("hidden files", "_find_files",
         "[name for name in names if not name.startswith('.')]", "list(names)"),
        ("rows named by the file alone", "read_triplets",
         "file.relative_to(path).as_posix()", "file.name"),
        ("stamps of pictures kept", "stamp_picture", "_stamp_file(path)", "_stamp_file_once(path)"),
    ],
    ("step1x_jax/data/sources.py", "tests/data/test_odd_files.py"): [
        ("own files read", "_find_files", "if _is_made(folder, names):", "if False:"),
        ("root ignored", "read_triplets",
         "file.parent if root is None else epath.Path(root)", "file.parent"),
        ("bytes in names", "read_triplets", "make_printable(...)", "str(...)"),
    ],
    ("step1x_jax/data/paths.py", "tests/data/test_odd_files.py"): [
        ("links not followed", "walk", "linked += [os.path.join(place, name) for name in links]",
         "[] + [os.path.join(place, name) for name in links]"),
        ("folders twice", "walk", "if real in seen:", "if False:"),
    ],
    ("step1x_jax/data/paths.py", "tests/data/test_changed_pictures.py"): [
        ("times that programs set", "stamp",
         "f'{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}'",
         "f'{status.st_size} {status.st_mtime_ns}'"),
    ],
    ("step1x_jax/data/paths.py", LISTS): [
        ("lists lead anywhere", "stays_inside", "'..' in pure.parts", "False"),
        ("lists at the root", "stays_inside", "pure.is_absolute()", ""),
    ],
    ("step1x_jax/data/identity.py", "tests/data/test_changed_pictures.py"): [
        ("unreadable for ever", "describe_pictures",
         "'' if UNREADABLE in digests else stamp", "stamp"),
    ],
    ("step1x_jax/data/chunks.py", "tests/data/test_object_store.py"): [
        ("listed leftovers read", "check_settings", "except MissingError:", "except OSError:"),
    ],
    ("step1x_jax/data/chunks.py", "tests/data/test_precompute.py"): [
        ("hash without sizes", "_hash_content", "row, lengths", "row"),
        ("all of the first source", "join_manifests",
         "dataclasses.replace(shard, source=chunk.source)", "shard"),
        ("shards not looked at", "find_chunk", "check_size(output / shard.file, shard)", "pass"),
    ],
    ("step1x_jax/data/chunks.py", "tests/data/test_changed_pictures.py"): [
        ("contents not compared", "find_chunk", "if now.digest != pictures.digest:", "if False:"),
        ("copies made again", "find_chunk", "if now.digest != pictures.digest:", "if True:"),
        ("copies read every time", "find_chunk", "if mine and now != pictures:", "if False:"),
        ("all pictures gone", "check_pictures", "missing == 2 * len(one.triplets)", "False"),
        ("shards replaced", "shard_prefix",
         "f'{chunk.name}-{changes}' if changes else chunk.name", "chunk.name"),
    ],
    ("step1x_jax/data/precompute.py", "tests/data/test_precompute.py"): [
        ("every process does all", "precompute", "chunks[process_index::process_count]", "chunks"),
        ("manifest without the others' chunks", "precompute", "len(chunks) - len(manifests)", "0"),
    ],
    ("step1x_jax/data/chunk_maker.py", "tests/data/test_precompute.py"): [
        ("manifest before shards", "ChunkMaker._write",
         "with replacing(manifest_path(self._output, chunk)) as manifest_file, "
         "open_shard_writer(self._output, shard_prefix(chunk, changes)) as shards, "
         "BatchWriter(shards) as writer:",
         "with open_shard_writer(self._output, shard_prefix(chunk, changes)) as shards, "
         "replacing(manifest_path(self._output, chunk)) as manifest_file, BatchWriter(shards) "
         "as writer:"),
        ("last batch lost", "batch_by_shape", "waiting.values()", "()"),
    ],
    ("step1x_jax/data/edit_loader.py", "tests/data/test_precompute.py"): [
        ("negatives for all", "EditLoader._prepare",
         "draw_uniform(triplet) < self._negatives", "True"),
    ],
    ("step1x_jax/data/edit_loader.py", "tests/data/test_changed_pictures.py"): [
        ("little kept", "EditLoader._prepare", "... < self._min_kept", "... < 0.0"),
    ],
    ("step1x_jax/data/batch_encoder.py", "tests/data/test_precompute.py"): [
        ("batches not filled up", "BatchEncoder._fill",
         "examples[-1:] * (self._batch_size - len(examples))", "[]"),
    ],
    ("step1x_jax/data/batch_encoder.py", "tests/data/test_batch_encoder.py"): [
        ("negatives shifted", "BatchEncoder._get_negatives",
         "None if edit.negative_prompt is None else next(rows)", "next(rows, None)"),
    ],
    ("step1x_jax/data/model_output.py", "tests/data/test_model_output.py"): [
        ("texts not cut", "ModelOutput.fetch", "example[:length]", "example"),
        ("moved for every row", "ModelOutput.fetch", "if self._fetched is None:", "if True:"),
    ],
    ("step1x_jax/data/source_cache.py", "tests/data/test_source_cache.py"): [
        ("sources computed every time", "SourceCache.get",
         "e.source_hash not in self._values", "True"),
        ("forgotten too early", "SourceCache.get", "-self.LIMIT", "-1"),
        ("never forgotten", "SourceCache.get", "list(self._values)[: -self.LIMIT]", "[]"),
    ],
    ("step1x_jax/data/batch_writer.py", "tests/data/test_batch_writer.py"): [
        ("errors of the writer lost", "BatchWriter._take",
         "self._waiting.popleft().result()", "self._waiting.popleft() and []"),
        ("devices idle while one writes", "BatchWriter.write", "IN_FLIGHT - 1", "0"),
        ("clock stopped too early", "BatchWriter._write_batch", "batch.wait()", "pass"),
    ],
    ("step1x_jax/data/batch_writer.py", "tests/data/test_changed_pictures.py"): [
        ("NaN stored", "BatchWriter._write_edit", "record.find_non_finite()", "None"),
    ],
    ("step1x_jax/data/idle_clock.py", "tests/data/test_idle_clock.py"): [
        ("idle while one runs", "IdleClock.start", "if self._running == 0:", "if True:"),
    ],
}
