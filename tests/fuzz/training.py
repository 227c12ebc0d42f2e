"""The parts of a training step around the loss: how the gradient is taken, what becomes of it, what
else the state holds.
"""

# How the step takes its gradient `g`. {grad} and {value_and_grad} are metagrad's or JAX's; {rest}
# are the loss's arguments after params.
FORMS = {
    "plain": "g = {grad}(loss)(params, {rest})",
    "closure": "g = {grad}(lambda p: loss(p, {rest}))(params)",
    "value used": (
        "value, g = {value_and_grad}(loss)(params, {rest})\n"
        "g = jax.tree.map(lambda g: g / (1.0 + value ** 2), g)"
    ),
    "aux used": (
        "g, aux = {grad}(loss_and_aux, has_aux=True)(params, {rest})\n"
        "g = jax.tree.map(lambda g: g * jnp.tanh(aux), g)"
    ),
    "value and aux used": (
        "(value, aux), g = {value_and_grad}(loss_and_aux, has_aux=True)(params, {rest})\n"
        "g = jax.tree.map(lambda g: g * jnp.cos(value * aux), g)"
    ),
    "two gradients": (
        "g = {grad}(loss)(params, {rest})\n"
        "h = {grad}(loss)(jax.tree.map(lambda p, g: p - 0.1 * g, params, g), {rest})\n"
        "g = jax.tree.map(lambda g, h: 0.5 * (g + h), g, h)"
    ),
    "two losses": (
        "g = {grad}(loss)(params, {rest})\n"
        "h = {grad}(lambda p: jnp.tanh(loss(p, {rest})) ** 2)(params)\n"
        "g = jax.tree.map(lambda g, h: g + h * jnp.sum(g), g, h)"
    ),
    "same gradient twice": (
        "g = {grad}(loss)(params, {rest})\n"
        "g = jax.tree.map(lambda a, b: a * (1.0 + b), g, {grad}(loss)(params, {rest}))"
    ),
    "SAM": (
        "g = {grad}(loss)(params, {rest})\n"
        "norm = jnp.sqrt(sum(jnp.sum(x ** 2) for x in jax.tree.leaves(g)) + 1e-3)\n"
        "g = {grad}(loss)(jax.tree.map(lambda p, g: p + 0.05 * g / norm, params, g), {rest})"
    ),
    "MAML": (
        "def adapted(p):\n"
        "    h = {inner_grad}(loss)(p, {rest})\n"
        "    return loss(jax.tree.map(lambda p, h: p - 0.1 * h, p, h), {rest})\n"
        "g = {grad}(adapted)(params)"
    ),
    "gradient penalty": (
        "def penalised(p):\n"
        "    h = {inner_grad}(loss)(p, {rest})\n"
        "    return loss(p, {rest}) + 0.1 * sum(jnp.sum(x ** 2) for x in jax.tree.leaves(h))\n"
        "g = {grad}(penalised)(params)"
    ),
    "jitted": "g = jax.jit({grad}(loss))(params, {rest})",
    "checkpointed": "g = {grad}(jax.checkpoint(loss))(params, {rest})",
    "jitted loss": "g = {grad}(jax.jit(loss))(params, {rest})",
    "argnums": "g, of_meta = {grad}(loss, argnums=(0, 1), allow_int=True)(params, {rest})\n"
    "total = sum(jnp.sum(x) for x in jax.tree.leaves(of_meta) if x.dtype != jax.dtypes.float0)\ng "
    "= jax.tree.map(lambda g: g * (1.0 + 0.1 * total), g)",
    "conditional": (
        "g = jax.lax.cond(sum(jnp.sum(x) for x in jax.tree.leaves(params)) > 0, lambda: "
        "{grad}(loss)(params, {rest}), lambda: jax.tree.map(jnp.sin, params))"
    ),
    "in a loop": (
        "g = jax.lax.fori_loop(0, 2, lambda i, g: {grad}(loss)(jax.tree.map(lambda p, g: p - 0.1 "
        "* g, params, g), {rest}), jax.tree.map(jnp.zeros_like, params))"
    ),
    "inner steps": (
        "p = params\n"
        "for _ in range(2):\n"
        "    p = jax.tree.map(lambda p, g: p - 0.05 * g, p, {grad}(loss)(p, {rest}))\n"
        "g = jax.tree.map(lambda a, b: a - b, params, p)"
    ),
    "Hessian times gradient": (
        "f = lambda p: {grad}(loss)(p, {rest})\n"
        "g = f(params)\n"
        "g = jax.tree.map(lambda g, h: g - 0.1 * h, g, jax.jvp(f, (params,), (g,))[1])"
    ),
    "microbatches": (
        "g, _ = jax.lax.scan(lambda total, b: (jax.tree.map(jnp.add, total, {grad}(loss)(params, "
        "{rest_b})), None), jax.tree.map(jnp.zeros_like, params), batch)"
    ),
    "vmap over examples": (
        "g = jax.tree.map(lambda x: jnp.mean(x, 0), jax.vmap(lambda b: {grad}(loss)(params, "
        "{rest_b}))(batch))"
    ),
    "clipped examples": (
        "g = jax.vmap(lambda b: {grad}(loss)(params, {rest_b}))(batch)\n"
        "g = jax.tree.map(lambda x: jnp.sum(jnp.clip(x, -0.1, 0.1), 0), g)"
    ),
    "mean over a vmap": (
        "g = {grad}(lambda p: jnp.mean(jax.vmap(lambda b: loss(p, {rest_b}))(batch)))(params)"
    ),
    "jax.linearize": (
        "value, back = jax.vjp(lambda p: loss(p, {rest}), params)\n"
        "g = back(jnp.ones_like(value))[0]"
    ),
    "no gradient": "g = jax.tree.map(jnp.sin, params)",
    "value alone": (
        "value, _ = {value_and_grad}(loss)(params, {rest})\n"
        "g = jax.tree.map(lambda p: p * value, params)"
    ),
    "held": "g = jax.lax.stop_gradient({grad}(loss)(params, {rest}))",
    "of held parameters": (
        "g = {grad}(lambda p: loss(jax.tree.map(lambda x: x + jax.lax.stop_gradient(x), p), "
        "{rest}))(params)"
    ),
    "one leaf": (
        "leaves, tree = jax.tree.flatten(params)\n"
        "h = {grad}(lambda x: loss(jax.tree.unflatten(tree, [x, *leaves[1:]]), "
        "{rest}))(leaves[0])\n"
        "g = jax.tree.unflatten(tree, [h, *map(jnp.cos, leaves[1:])])"
    ),
}
USUAL = ("plain", "closure", "value used", "aux used")
OVER_EXAMPLES = ("microbatches", "vmap over examples", "clipped examples", "mean over a vmap")
"""Forms whose batch has a further leading axis."""

# Transformations that are chained, and then the learning rate.
CHAIN = [
    "optax.scale_by_adam(eps_root=1e-6)",
    "optax.scale_by_adam(b1=0.5, b2=0.9, eps_root=1e-4, nesterov=True)",
    "optax.scale_by_lion()",
    "optax.trace(0.9)",
    "optax.trace(0.5, nesterov=True)",
    "optax.clip_by_global_norm(0.5)",
    "optax.clip_by_global_norm(100.0)",
    "optax.clip(0.1)",
    "optax.clip_by_block_rms(0.5)",
    "optax.add_decayed_weights(0.01)",
    "optax.add_decayed_weights(0.1, mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))",
    "optax.scale_by_rms(eps=1e-3)",
    "optax.scale_by_rss(eps=1e-3)",
    "optax.scale_by_stddev(eps=1e-3)",
    "optax.scale_by_amsgrad(eps_root=1e-6)",
    "optax.scale_by_adamax(eps=1e-3)",
    "optax.scale_by_belief(eps_root=1e-3)",
    "optax.scale_by_yogi(eps_root=1e-3)",
    "optax.scale_by_radam()",
    "optax.scale_by_novograd(eps_root=1e-3)",
    "optax.scale_by_sm3(eps=1e-3)",
    "optax.scale_by_trust_ratio(eps=1e-3)",
    "optax.ema(0.9)",
    "optax.ema(0.5, debias=False)",
    "optax.centralize()",
    "optax.normalize_by_update_norm(eps=1e-2)",
    "optax.scale_by_sign()",
    "optax.zero_nans()",
    "optax.adaptive_grad_clip(0.1)",
    "optax.scale_by_schedule(optax.cosine_decay_schedule(1.0, 5))",
    "optax.scale_by_schedule(optax.piecewise_constant_schedule(1.0, {2: 0.5}))",
    "optax.scale_by_schedule(optax.warmup_cosine_decay_schedule(0.1, 1.0, 2, 6))",
    "optax.scale_by_schedule(optax.exponential_decay(1.0, 2, 0.5, staircase=True))",
    "optax.identity()",
    "optax.scale_by_param_block_rms(min_scale=0.1)",
    "optax.scale_by_factored_rms(min_dim_size_to_factor=2)",
    "optax.add_noise(0.01, 0.5, 0)",
    "optax.masked(optax.trace(0.9), lambda tree: jax.tree.map(lambda x: x.ndim > 0, tree))",
    "optax.masked(optax.scale_by_adam(eps_root=1e-6), lambda tree: jax.tree.map(lambda x: x.ndim "
    "== 1, tree))",
    "optax.freeze(False)",
    "optax.scale_by_optimistic_gradient()",
    "optax.apply_every(2)",
    "optax.scale_by_rprop(0.1)",
    "optax.scale_by_adadelta(eps=1e-3)",
    "optax.keep_params_nonnegative()",
    "optax.snapshot('a', lambda u, *_: jax.tree.leaves(u)[0])",
    "optax.masked(optax.set_to_zero(), lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))",
    "optax.masked(optax.scale_by_rms(eps=1e-3), lambda tree: jax.tree.map(lambda x: x.size > 2, "
    "tree))",
    "optax.masked(optax.chain(optax.clip(0.2), optax.trace(0.9)), lambda tree: "
    "jax.tree.map(lambda x: False, tree))",
    "optax.inject_hyperparams(optax.scale_by_adam)(b1=0.8, b2=optax.linear_schedule(0.9, 0.99, 4), "
    "eps_root=1e-4)",
    "optax.inject_hyperparams(optax.trace, static_args='nesterov')(0.7, nesterov=True)",
    "optax.inject_hyperparams(optax.add_decayed_weights)(optax.cosine_decay_schedule(0.1, 4))",
    "optax.conditionally_transform(optax.scale(0.5), lambda step: step % 2 == 0)",
    "optax.conditionally_mask(optax.trace(0.5), lambda step: step > 0)",
    "optax.named_chain(('clip', optax.clip(0.3)), ('adam', optax.scale_by_adam(eps_root=1e-4)))",
    "optax.chain(optax.chain(optax.trace(0.5), optax.ema(0.9)), optax.identity())",
    "optax.partition({True: optax.set_to_zero(), False: optax.trace(0.9)}, lambda tree: "
    "jax.tree.map(lambda x: x.ndim == 1, tree))",
    "optax.scale_by_distance_over_gradients()",
    "optax.contrib.scale_by_ademamix(eps_root=1e-4)",
    "optax.contrib.scale_by_simplified_ademamix(eps=1e-2)",
    "optax.contrib.normalize()",
    "optax.stateless(lambda updates, params: jax.tree.map(lambda u, p: u * jnp.cos(p), updates, "
    "params))",
]
WHOLE = [
    "optax.sgd(0.1)",
    "optax.sgd(0.05, momentum=0.9, nesterov=True)",
    "optax.adam(0.05, eps_root=1e-6)",
    "optax.adamw(0.05, eps_root=1e-6, weight_decay=0.01)",
    "optax.nadam(0.05, eps_root=1e-6)",
    "optax.lion(0.01)",
    "optax.rmsprop(0.05, eps=1e-3, momentum=0.5)",
    "optax.adagrad(0.1, eps=1e-3)",
    "optax.adafactor(0.05, min_dim_size_to_factor=2)",
    "optax.lamb(0.05, eps_root=1e-4)",
    "optax.lars(0.1, eps=1e-2)",
    "optax.noisy_sgd(0.1, key=0)",
    "optax.sign_sgd(0.02)",
    "optax.contrib.muon(0.05)",
    "optax.contrib.schedule_free_sgd(0.1)",
    "optax.contrib.prodigy(0.05, eps=1e-3)",
    "optax.amsgrad(0.05, eps_root=1e-4)",
    "optax.adan(0.05, eps_root=1e-4)",
    "optax.fromage(0.05)",
    "optax.yogi(0.05, eps=1e-2)",
    "optax.contrib.cocob()",
    "optax.contrib.acprop(0.05)",
    "optax.MultiSteps(optax.adam(0.05, eps_root=1e-6), 2)",
    "optax.inject_hyperparams(optax.sgd)(learning_rate=optax.linear_schedule(0.1, 0.01, 5))",
    "optax.apply_if_finite(optax.sgd(0.1, momentum=0.9), 3)",
    "optax.flatten(optax.adam(0.05, eps_root=1e-6))",
    "optax.partition({'a': optax.adam(0.05, eps_root=1e-6), 'b': optax.sgd(0.1)}, lambda tree: "
    "jax.tree.map(lambda x: 'a' if x.ndim > 1 else 'b', tree))",
    "optax.multi_transform({'a': optax.adam(0.05, eps_root=1e-6), 'b': optax.set_to_zero()}, "
    "lambda tree: jax.tree.map(lambda x: 'a' if x.ndim > 1 else 'b', tree))",
    "optax.multi_transform({'a': optax.set_to_zero(), 'b': optax.MultiSteps(optax.sgd(0.1, 0.9), "
    "2)}, lambda tree: jax.tree.map(lambda x: 'a' if x.ndim > 1 else 'b', tree))",
    "optax.set_to_zero()",
    "optax.MultiSteps(optax.chain(optax.clip(0.1), optax.adamw(0.05, eps_root=1e-6)), 3)",
    "optax.MultiSteps(optax.sgd(0.1), every_k_schedule=lambda step: 1 + step % 2)",
    "optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2, use_grad_mean=False)",
    "optax.MultiSteps(optax.inject_hyperparams(optax.adam)(0.05, eps_root=1e-5), 2)",
    "optax.inject_hyperparams(optax.adam)(optax.cosine_decay_schedule(0.1, 6), b1=0.7, "
    "eps_root=1e-5)",
    "optax.inject_hyperparams(optax.adamw)(0.05, weight_decay=optax.linear_schedule(0.1, 0.0, 4), "
    "eps_root=1e-5)",
    "optax.masked(optax.inject_hyperparams(optax.sgd)(0.1, momentum=0.5), lambda tree: "
    "jax.tree.map(lambda x: x.ndim > 0, tree))",
    "optax.flatten(optax.masked(optax.sgd(0.1, 0.9), True))",
    "optax.apply_if_finite(optax.MultiSteps(optax.adam(0.05, eps_root=1e-6), 2), 2)",
    "optax.chain(optax.masked(optax.set_to_zero(), lambda tree: jax.tree.map(lambda x: x.ndim "
    "== 0, tree)), optax.adam(0.05, eps_root=1e-6))",
    "optax.with_extra_args_support(optax.sgd(0.1))",
    "optax.contrib.schedule_free(optax.sgd(0.1), 0.1)",
    "optax.contrib.schedule_free_adamw(0.05, eps=1e-3)",
    "optax.contrib.ademamix(0.05, eps_root=1e-4)",
    "optax.contrib.dadapt_adamw(0.1, eps=1e-2)",
    "optax.contrib.mechanize(optax.sgd(0.1))",
    "optax.contrib.dog(0.1)",
    "optax.contrib.dowg(0.1)",
    "optax.contrib.adopt(0.05, eps=1e-2)",
    "optax.contrib.madgrad(0.05, eps=1e-2)",
    "optax.adabelief(0.05, eps_root=1e-3)",
    "optax.adamax(0.05, eps=1e-2)",
    "optax.adamaxw(0.05, eps=1e-2)",
    "optax.nadamw(0.05, eps_root=1e-5)",
    "optax.novograd(0.05, eps_root=1e-3)",
    "optax.radam(0.05, eps_root=1e-4)",
    "optax.optimistic_adam(0.05, eps_root=1e-4)",
    "optax.optimistic_gradient_descent(0.1)",
    "optax.rprop(0.05)",
    "optax.sm3(0.05)",
    "optax.adadelta(0.5, eps=1e-3)",
    "optax.noisy_sgd(optax.cosine_decay_schedule(0.1, 5), key=1)",
]

# What else is in the state: its initial value, what it becomes in a step.
EXTRAS = {
    "count": ("jnp.zeros((), jnp.int32)", "count + 1"),
    "flag": ("jnp.array(False)", "~flag"),
    "ema": ("params", "jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, ema, params)"),
    "held_ema": (
        "params",
        "jax.tree.map(lambda e, p: 0.9 * e + 0.1 * jax.lax.stop_gradient(p), held_ema, params)",
    ),
    "nothing": ("None", "None"),
    "history": (
        "jnp.zeros(3)",
        "jnp.roll(history, 1).at[0].set(sum(jnp.sum(x) for x in jax.tree.leaves(params)))",
    ),
    "largest": (
        "jnp.zeros(())",
        "jnp.maximum(largest, sum(jnp.sum(x) for x in jax.tree.leaves(params)))",
    ),
    "untouched": ("jnp.arange(3.0)", "untouched"),
    "integer": ("3", "integer"),
    "dataset": ("normal(31, 40, 4)", "dataset"),
    "frozen_tree": (
        "{'w': jnp.ones(3), 'n': None, 'm': (np.arange(2), True)}",
        "jax.tree.map(lambda x: x, frozen_tree)",
    ),
    "frozen_key": ("jax.random.key(5)", "frozen_key"),
    "folded": ("jax.random.key(6)", "jax.random.fold_in(folded, 1)"),
    "stopped": ("jnp.arange(3.0)", "jax.lax.stop_gradient(stopped)"),
    "times_one": ("jnp.arange(3.0)", "times_one * 1.0"),
    "rounded": ("normal(32, 3)", "rounded.astype(jnp.float32).astype(rounded.dtype)"),
    "reshaped": ("jnp.arange(3.0)", "reshaped.reshape(3, 1).reshape(3)"),
    "for_a_while": (
        "jnp.ones(2)",
        "jnp.where(jnp.sum(jax.tree.leaves(params)[0]) > 0, for_a_while, 0.5 * for_a_while)",
    ),
    "either_way": (
        "jnp.arange(2.0)",
        "jax.lax.cond(jnp.sum(jax.tree.leaves(params)[0]) > 0, lambda x: x, lambda x: x, "
        "either_way)",
    ),
    "swapped": ("(jnp.ones(2), jnp.arange(2.0))", "swapped[::-1]"),
    "carried": (
        "jnp.arange(2.0)",
        "jax.lax.scan(lambda c, _: (c, None), carried, None, length=2)[0]",
    ),
    "time": ("jnp.zeros(())", "time + 0.5"),
    "countdown": ("jnp.array(20)", "countdown - 1"),
    "doubling": ("jnp.array(1)", "doubling * 2"),
    "modular": ("jnp.array(0)", "(modular + 1) % 3"),
    "two_counters": (
        "(jnp.array(0), jnp.array(1.0))",
        "(two_counters[0] + 1, two_counters[1] + two_counters[0])",
    ),
}

# What the state's other parts do to the gradient before the optimiser sees it.
USES = {
    "count": "g = jax.tree.map(lambda g: g / (1.0 + 0.5 * count), g)",
    "flag": "g = jax.tree.map(lambda g: jnp.where(flag, g, 0.5 * g), g)",
    "ema": "g = jax.tree.map(lambda g, p, e: g + 0.1 * (p - e), g, params, ema)",
    "history": "g = jax.tree.map(lambda g: g + 0.01 * jnp.max(history), g)",
    "largest": "g = jax.tree.map(lambda g: g / (1.0 + jnp.square(largest)), g)",
    "untouched": "g = jax.tree.map(lambda g: g * untouched[1], g)",
    "integer": "g = jax.tree.map(lambda g: g * integer / 4, g)",
    "dataset": (
        "row = jnp.asarray(dataset)[jnp.argmax(jax.tree.leaves(params)[0])]\n"
        "g = jax.tree.map(lambda g: g * (1.0 + 0.1 * jnp.mean(row)), g)"
    ),
    "frozen_tree": (
        "g = jax.tree.map(lambda g: g * jnp.mean(frozen_tree['w'] * frozen_tree['m'][1]), g)"
    ),
    "frozen_key": (
        "g = jax.tree.map(lambda g: g + 0.01 * jax.random.normal(frozen_key, g.shape), g)"
    ),
    "folded": "g = jax.tree.map(lambda g: g * jax.random.uniform(folded, g.shape), g)",
    "stopped": "g = jax.tree.map(lambda g: g * stopped[1], g)",
    "times_one": "g = jax.tree.map(lambda g: g * times_one[1], g)",
    "rounded": "g = jax.tree.map(lambda g: g * (1.0 + 0.1 * rounded[0]), g)",
    "reshaped": "g = jax.tree.map(lambda g: g * jnp.mean(reshaped), g)",
    "for_a_while": "g = jax.tree.map(lambda g: g * for_a_while[0], g)",
    "either_way": "g = jax.tree.map(lambda g: g * either_way[1], g)",
    "swapped": "g = jax.tree.map(lambda g: g * swapped[0][1], g)",
    "carried": "g = jax.tree.map(lambda g: g + 0.1 * carried[1], g)",
    "time": "g = jax.tree.map(lambda g: g * jnp.exp(-time), g)",
    "countdown": "g = jax.tree.map(lambda g: g * countdown / 20, g)",
    "doubling": "g = jax.tree.map(lambda g: g / doubling, g)",
    "modular": "g = jax.tree.map(lambda g: g * (modular == 1), g)",
    "two_counters": "g = jax.tree.map(lambda g: g / two_counters[1], g)",
}

# How the updates reach the parameters.
UPDATES = {
    "added": "params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)",
    "apply_updates": "params = optax.apply_updates(params, updates)",
    "first leaf frozen": (
        "leaves, tree = jax.tree.flatten(params)\n"
        "news = jax.tree.leaves(optax.apply_updates(params, updates))\n"
        "params = jax.tree.unflatten(tree, [*leaves[:-1], news[-1]])"
    ),
    "where positive": (
        "params = jax.tree.map(lambda p, u: jnp.where(p > 0, p + u.astype(p.dtype), p), params, "
        "updates)"
    ),
    "if it helps": (
        "params = jax.lax.cond(sum(jnp.sum(u) for u in jax.tree.leaves(updates)) > 0, lambda: "
        "optax.apply_updates(params, updates), lambda: params)"
    ),
    "incremental": (
        "params = optax.incremental_update(optax.apply_updates(params, updates), params, 0.5)"
    ),
}

SCHEDULES = (
    "metagrad.StoreAll({keep})",
    "metagrad.LazyKary({n}, {keep})",
    "metagrad.Binomial({slots}, {keep})",
    "metagrad.Periodic({n}, {keep})",
    "metagrad.Binomial({slots}, rebuild={rebuild})",
    "metagrad.Periodic({n}, rebuild={rebuild})",
    "metagrad.LazyKary({n}, rebuild={rebuild})",
    "None",
)
