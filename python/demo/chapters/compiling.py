"""Chapter: the training run, and its metagradient as one program.

It prints the plan, who differentiates what, and the memory.
"""

import jax

import metagrad
from metagrad.demo import data, label_noise, report, training

SCHEDULE = metagrad.LazyKary(k=4)  # Replay's


def introduce(out, settings, problem):
    mistakes = ", ".join(
        f"{truth}s as {mistake}" for truth, mistake in label_noise.MISTAKEN_FOR.items()
    )
    report.text(
        out,
        f"data       {len(problem.wrong)} handwritten digits to train on, "
        f"{int(problem.wrong.sum())} of them wrongly labelled ({mistakes});\n"
        f"           {data.VALIDATION} others to validate and {len(problem.test.label)} to test, "
        "all labelled rightly\n"
        f"training   {settings.steps} Adam steps, {settings.batch} examples each, "
        f"learning rate {settings.rate:.2g}, seed {settings.seed}\n"
        f"device     {jax.devices()[0].device_kind}",
    )


def run(out, settings, problem):
    """Returns (lowered, compiled, numbers).

    `compiled(state, meta, batches, image, label)` gives the value, gradients and final state.
    """
    report.heading(
        out, "Metagradient of validation loss, through the whole run, compiled to one program"
    )
    metagradient = training.train_step.metagradient(
        training.validation_loss, wrt=("meta", "state"), schedule=SCHEDULE
    )
    with report.working(
        out, "tracing, cutting, differentiating with Enzyme, scheduling"
    ) as lowering:
        lowered = metagradient.lower(
            problem.state, problem.meta, problem.batches, *problem.validation
        )
    with report.working(out, "compiling with XLA") as compilation:
        compiled = lowered.compile()

    out.print("\n  Plan")
    report.text(out, lowered.plan, indent=4)
    out.print("\n  Who differentiates what")
    report.text(out, lowered.explain(), indent=4)

    state_bytes, gradient_bytes = bytes_of(problem.state), bytes_of(problem.state.params)
    slots = lowered.plan.slot_bytes(state_bytes, gradient_bytes)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    out.print("\n  Memory")
    report.text(
        out,
        (
            f"one state {report.size(state_bytes)}, one gradient {report.size(gradient_bytes)}; "
            f"all slots {report.size(slots)}\n"
            f"the whole program, beside its arguments and results: {report.size(temporary)}"
        ),
        indent=4,
    )
    return (
        lowered,
        compiled,
        {
            "schedule": lowered.plan.schedule,
            "steps": lowered.plan.steps,
            "state_slots": lowered.plan.state_slots,
            "gradient_slots": lowered.plan.gradient_slots,
            "advances": lowered.plan.advances,
            "updates": lowered.plan.updates,
            "slot_bytes": slots,
            "temporary_bytes": temporary,
            "lowering_seconds": lowering.seconds,
            "compilation_seconds": compilation.seconds,
        },
    )


def bytes_of(tree):
    """The bytes of all leaves."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
