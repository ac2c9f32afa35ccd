"""Mutations of step1x_jax/training/."""

from tests.mutations.suites import LORA, OTHER_BASE
from tests.mutations.table import Table

# fmt: off
TABLE: Table = {
    ("step1x_jax/training/monitoring/flops.py", "tests/training/monitoring/test_flops.py"): [
        ("layers counted once", "jaxpr_flops", "equation.params['length']", "1"),
    ],
    ("step1x_jax/training/trainable_split.py", "tests/planning/test_edit.py"): [
        ("weights everywhere", "with_shardings", "shardings(tree, mesh)",
         "jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, jax.P()), tree)"),
    ],
    ("step1x_jax/training/trainable_split.py",
     f"{LORA}::test_on_eight_devices_all_is_split_as_the_kernels_are"): [
        ("all is trained", "_split",
         "nnx.LoRAParam if config.lora.rank else nnx.Param", "nnx.Param"),
    ],
    ("step1x_jax/training/step/remat_choice.py", "tests/training/step/test_remat_choice.py"): [
        ("state forgotten", "_choose_policy", "available - taken", "available"),
        ("least that fits", "_choose_policy", "fitting[-1]", "fitting[0]"),
    ],
    ("step1x_jax/training/starting.py", "tests/weights/test_matrix.py"): [
        ("8 bits rounded before training", "open_start_weights",
         "exact=model.param_dtype == 'float32'", ""),
    ],
    ("step1x_jax/training/starting.py", f"{LORA}::test_adapters_of_other_settings_are_no_start"): [
        ("another alpha goes on", "load_first_adapters", "if there != here:", "if False:"),
    ],
    ("step1x_jax/training/checkpoint/checkpoints.py", "tests/weights/run/test_writer.py"): [
        ("weights taken for a run", "_check_is_run", "if WEIGHTS in about.arrays:", "if False:"),
    ],
    ("step1x_jax/training/checkpoint/checkpoints.py",
     "tests/training/checkpoint/test_checkpoints.py"): [
        ("step forgotten", "Checkpoints.restore",
         "items['optimizer']['step']", "jnp.zeros((), jnp.int32)"),
    ],
    ("step1x_jax/training/checkpoint/checkpoints.py", OTHER_BASE): [
        ("base not looked at on resume", "Checkpoints.restore", "base is not None", "False"),
        ("base forgotten", "Checkpoints.save", "base, None if records is None else list(records)",
         "None, None if records is None else list(records)"),
    ],
    ("step1x_jax/training/checkpoint/checkpoints.py", "tests/training/test_loop.py"): [
        ("optimizer forgotten", "Checkpoints.restore",
         "opt_state, ema", "jax.tree.map(jnp.zeros_like, opt_state), ema"),
    ],
    ("step1x_jax/training/step/loss.py", "tests/training/step/test_loss.py"): [
        ("target turned", "rectified_flow_loss", "noise - clean", "clean - noise"),
        ("interpolation turned", "interpolate",
         "(1 - t) * clean + t * noise", "t * clean + (1 - t) * noise"),
    ],
    ("step1x_jax/training/step/timesteps.py", "tests/training/step/test_timesteps.py"): [
        ("times not shifted", "sample_timesteps", "time_shift(t, num_tokens, config.shift)", "t"),
        ("std ignored", "logit_normal", "config.std * normal", "normal"),
    ],
    ("step1x_jax/training/step/optimizer.py", "tests/training/step/test_optimizer.py"): [
        ("no clipping", "make_optimizer",
         "... if config.clip_norm else optax.identity()", "... if False else optax.identity()"),
        ("no weight decay", "make_optimizer",
         "weight_decay=config.weight_decay", "weight_decay=0.0"),
        ("warm-up from 0", "make_schedule", "step + 1", "step"),
        ("fall from the start", "make_schedule", "steps - flat_steps", "steps"),
    ],
    ("step1x_jax/training/step/precision.py", "tests/training/step/test_precision.py"): [
        ("rounded to nearest", "round_to_stored_dtypes",
         "stochastic_round(now, fold_in_name(key, jax.tree_util.keystr(path)))",
         "now.astype(before.dtype)"),
        ("rounded up too often", "stochastic_round",
         "jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)",
         "2 * jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)"),
        ("NaN becomes infinite", "stochastic_round", "jnp.isfinite(x)", "True"),
        ("arrays rounded alike", "round_to_stored_dtypes", "jax.tree_util.keystr(path)", "''"),
        ("norms cast, too", "cast_kernels",
         "x.astype(dtype) if is_kernel else x", "x.astype(dtype)"),
    ],
    ("step1x_jax/training/step/accumulation.py", "tests/training/step/test_accumulation.py"): [
        ("sum not mean", "accumulate_value_and_grad", "g / microbatches", "g"),
        ("loss of the parts added up", "accumulate_value_and_grad",
         "value / microbatches", "value"),
        ("last part counts", "accumulate_value_and_grad",
         "a + g.astype(a.dtype)", "g.astype(a.dtype)"),
        ("examples sent around", "_split_microbatches",
         "jnp.swapaxes(x.reshape(len(x) // microbatches, microbatches, *x.shape[1:]), 0, 1)",
         "x.reshape(microbatches, len(x) // microbatches, *x.shape[1:])"),
    ],
    ("step1x_jax/training/step/adafactor.py", "tests/training/step/test_adafactor.py"): [
        ("layers mixed", "_factored_axes", "name != 'layers'", "True"),
        ("layers clipped together", "_clip_layer_rms", "name != 'layers'", ""),
        ("rows not normalised", "scale_by_factored_rms", "r / r.mean(small, keepdims=True)", "r"),
        ("first step decays", "scale_by_factored_rms",
         "(state.steps + 1).astype", "(state.steps + 2).astype"),
    ],
    ("step1x_jax/training/step/train_step.py", "tests/training/step/test_precision.py"): [
        ("moments kept in float32", "_init_state",
         "cast_float32(opt_state, config.optimizer.moment_dtype)", "opt_state"),
        ("average in bfloat16", "_copy_to_float32", "x.astype(jnp.float32)", "x"),
    ],
    ("step1x_jax/training/step/train_step.py", "tests/training/step/test_step_draws.py"): [
        ("average turned", "make_train_step",
         "decay * a + (1 - decay) * p", "decay * p + (1 - decay) * a"),
        ("noise of step 0", "make_train_step",
         "rng_stream(seed, 'noise'), state.step", "rng_stream(seed, 'noise'), 0"),
        ("times of step 0", "make_train_step",
         "rng_stream(seed, 'timesteps'), state.step", "rng_stream(seed, 'timesteps'), 0"),
        ("one stream for two", "make_train_step", "seed, 'timesteps'", "seed, 'noise'"),
        ("steps not counted", "make_train_step", "state.step + 1", "state.step"),
        ("noise to picture", "make_train_step", "clean, noise", "noise, clean"),
        ("loss's target turned", "make_train_step",
         "x['clean'], x['noise']", "x['noise'], x['clean']"),
        ("tokens not packed", "make_train_step", "height * width // PATCH**2", "height * width"),
        ("target as reference", "make_train_step", "x['source']", "x['target']"),
    ],
    ("step1x_jax/training/config.py", "tests/training/test_config.py"): [
        ("resume with any seed", "",
         "'training.steps', 'training.log_every'", "'training.', 'training.log_every'"),
        ("records of a run not compared", "check_same_run",
         "if list(records) != list(saved_records):", "if False:"),
        ("places compared by name", "check_same_run",
         "_absolute_paths if field in COMPARED_PATHS else _identity", "_identity"),
        ("held-out records unseen", "check_records", "if config.held_out.path:", "if False:"),
    ],
    ("step1x_jax/training/config.py", f"{OTHER_BASE} {LORA}::test_no_base_is_a_mistake"): [
        ("adapters without base", "TrainConfig.validate", "bool(self.training.start_from)", "True"),
        ("another base refused by name", "check_same_run", "config.lora.rank", "False"),
    ],
    ("step1x_jax/training/failures/stop_signal.py",
     "tests/training/failures/test_stop_signal.py"): [
        ("nothing said", "_handle_signals", "os.write(1, NOTICE)", "pass"),
        ("a second signal waits", "_handle_signals", "os._exit(128 + number[0])", "pass"),
    ],
    ("step1x_jax/training/loop.py", "tests/training/checkpoint/test_checkpoint_gcs.py"): [
        ("rows after their checkpoint", "train", "metrics.flush()", "pass"),
    ],
    ("step1x_jax/training/loop.py", "tests/training/test_loop.py"): [
        ("last step not saved", "train", "step == steps", ""),
        ("configs not compared", "train", "checkpoints.read_newest_config()", "None"),
        ("two at once", "train",
         "functools.partial(to_the_end.enter_context, lock)", "lambda: None"),
        ("signals ignored", "train", "if stop:", "if False:"),
        ("anything moves in a step", "train",
         "jax.transfer_guard('disallow')", "jax.transfer_guard('allow')"),
    ],
    ("step1x_jax/training/loop.py", "tests/training/monitoring/test_held_out.py"): [
        ("average not evaluated", "train", "evaluated = state.ema", "evaluated = state.params"),
        ("pictures without the average", "train",
         "evaluated, frozen, step", "state.params, frozen, step"),
        ("loss without the average", "train",
         "evaluation.compute_losses(evaluated, frozen)",
         "evaluation.compute_losses(state.params, frozen)"),
        ("average not said", "train", "if evaluation is not None and decay:", "if False:"),
        ("average said where there is none", "train",
         "if evaluation is not None and decay:", "if evaluation is not None:"),
        ("rows do not tell the average", "train", "numbers['held_out_ema_decay'] = decay", "pass"),
    ],
    ("step1x_jax/training/monitoring/metrics.py", "tests/training/monitoring/test_metrics.py"): [
        ("later rows stay in a bucket", "MetricsWriter.__init__", "self.flush()", "pass"),
    ],
    ("step1x_jax/training/failures/not_finite.py", "tests/training/failures/test_not_finite.py"): [
        ("NaN not noticed", "check_finite", "not np.isfinite(value)", "np.isinf(value)"),
        ("names of edits forgotten", "check_finite", "batch.get('ids', ())", "()"),
    ],
    ("step1x_jax/training/monitoring/held_out.py", "tests/training/monitoring/test_held_out.py"): [
        ("other noise for every batch", "_compute_losses",
         "jax.random.fold_in(..., number)", "jax.random.fold_in(..., 0)"),
        ("held-out loss at one time", "_compute_losses", "len(clean), time", "len(clean), 0.5"),
        ("pictures without negatives", "HeldOutEvaluator.write_picture",
         "False, True", "False, False"),
    ],
    ("step1x_jax/training/monitoring/clock.py", "tests/training/monitoring/test_clock.py"): [
        ("compiling counts as a step", "Clock.measure_step",
         "if size not in self._compiled:", "if False:"),
        ("compiling another size counts as a step", "Clock.measure_step",
         "if size not in self._compiled:", "if not self._compiled:"),
        ("operations of the last step alone", "Clock.measure_step",
         "self._flops += flops", "self._flops = flops"),
        ("MFU of one device", "Clock.take_row", "jax.device_count()", "1"),
    ],
    ("step1x_jax/training/checkpoint/late_errors.py",
     "tests/training/checkpoint/test_late_errors.py"): [
        ("all late errors dropped", "suppress_late_errors",
         "str(error) == 'Event loop is closed'", ""),
        ("late errors dropped for good", "suppress_late_errors",
         "sys.unraisablehook = before", "pass"),
    ],
    ("step1x_jax/training/failures/lost_peer.py", "tests/launch/test_exit_codes.py"): [
        ("an exit code of which the guide says nothing", "", "LOST = 75", "LOST = 76"),
    ],
    ("step1x_jax/training/failures/lost_peer.py", "tests/training/failures/test_lost_peer.py"): [
        ("what moved unasked is a lost peer", "", "'Disallowed '", ""),
    ],
}
