"""What a run of the fuzzer has found: counts by verdict, by operation, by who differentiated."""

import collections
import re

from . import source, surroundings

FAILURES = ("wrong", "NaN for a number", "crash", "hang", "died")


def signature(report):
    """What makes two failures the same: the verdict, and for an exception its text without the
    numbers in it.
    """
    if report["class"] in ("crash", "refused", "died"):
        return (
            report["class"]
            + ": "
            + re.sub(
                r"\d+",
                "N",
                re.sub(r"<program>:\d+|'[^']*'|%\w+|@\w+", "_", report["detail"].splitlines()[0]),
            )[:120]
        )
    return report["class"]


class Findings:
    """Counts programs; `add` says whether a verdict is worth a look."""

    def __init__(self, seed):
        self.seed = seed
        self.classes, self.rules, self.operations = (
            collections.Counter(),
            collections.Counter(),
            collections.Counter(),
        )
        self.agreed = collections.Counter()
        self.features = collections.Counter()
        self.kinds = collections.defaultdict(list)
        self.warned = collections.defaultdict(list)
        self.seconds = [0.0, 0.0]

    def add(self, number, program, report):
        verdict = report["class"]
        self.classes[verdict] += 1
        self.rules.update(report.get("rules", ()))
        used = {
            *source.operations(program["loss"]),
            *source.operations(program["outer"]),
            *program["optimiser"],
            program["form"],
        }
        self.operations.update(used)
        self.features.update(surroundings.features(program))
        if verdict == "agree":
            self.agreed.update(used)
        for text in report.get("warnings", ()):
            self.warned[re.sub(r"\d+", "N", text)[:160]].append(number)
        if "seconds" in report:
            self.seconds = [a + b for a, b in zip(self.seconds, report["seconds"])]
        if verdict in (*FAILURES, "refused", "unstable", "invalid"):
            kind = signature(report)
            self.kinds[kind].append(number)
            # Each wrong number is a case of its own; exceptions come in kinds.
            return verdict in ("wrong", "NaN for a number") or len(self.kinds[kind]) == 1
        return False

    @property
    def failed(self):
        return sum(self.classes[name] for name in FAILURES)

    def brief(self):
        return ", ".join(f"{count} {name}" for name, count in self.classes.most_common())

    def summary(self):
        lines = [
            f"seed {self.seed}: {sum(self.classes.values())} programs: {self.brief()}",
            f"seconds: JAX {self.seconds[0]:.0f}, metagrad {self.seconds[1]:.0f}",
        ]
        lines.append(
            "differentiated by: "
            + ", ".join(f"{rule} {count}" for rule, count in self.rules.most_common())
        )
        for kind, numbers in sorted(self.kinds.items()):
            lines.append(
                f"{kind}: {len(numbers)} "
                f"({', '.join(map(str, numbers[:12]))}{', ...' if len(numbers) > 12 else ''})"
            )
        for text, numbers in self.warned.items():
            lines.append(
                f"Enzyme gave up, JAX did it: {len(numbers)} ({', '.join(map(str, numbers[:8]))}): "
                f"{text}"
            )
        generated = {*source.OPERATIONS, *source.STRUCTURED, *source.FORMS}
        lines.append(
            "around the programs: "
            + ", ".join(f"{name} {count}" for name, count in self.features.most_common())
        )
        never = sorted(generated - set(self.operations))
        lines.append(
            f"operations, forms and optimisers used: {len(self.operations)}; in programs that "
            f"agree: {len(self.agreed)}"
        )
        if never and len(never) < 60:
            lines.append("never used: " + "; ".join(never))
        return "\n".join(lines)
