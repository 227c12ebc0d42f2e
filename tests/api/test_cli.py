"""The command line: help that works without JAX, and `metagrad plan`."""

import re
import subprocess
import sys

import pytest

import metagrad
from metagrad.cli import main, parser
from metagrad.runtime.byte_sizes import parse_bytes
from metagrad.runtime.schedules.costs import Costs, Sizes, memory

COMMANDS = ("doctor", "demo", "plan", "ir", "show")
SIZES = ("--steps", "3125", "--state", "1.8GiB", "--memory", "40GiB")


def printed(capsys, *arguments, status=0):
    """What a subcommand prints."""
    assert main(arguments) == status
    return capsys.readouterr().out


def table(text):
    """The rows of `metagrad plan`'s table: what stands in each column, by the schedule."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("schedule "))
    rows = [re.split(r"  +", line) for line in lines[start:] if "  " in line]
    return {row[0]: dict(zip(rows[0][1:], row[1:])) | {"rest": row[6:]} for row in rows[1:]}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"  metagrad {command}" in text.partition("\nexamples:\n")[2]


def test_the_help_of_all_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(f"^    {command} ", text, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["ir", "--help"], ["plan", *SIZES]])
def test_needs_no_jax(arguments):
    code = (
        "import sys; from metagrad.cli import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "print('with', [name for name in ('jax', 'jaxlib', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("with []\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_are_right(command):
    """Each example that is a whole command line is one that the parser takes."""
    top = parser()
    commands = next(action for action in top._actions if action.dest == "command").choices
    text = commands[command].epilog.replace("\\\n", " ")
    examples = [
        re.split("   | [|] ", line.strip())[0]
        for line in text.splitlines()
        if line.strip().startswith("metagrad ")
    ]
    assert examples
    for example in examples:
        assert top.parse_args(example.replace("'", "").split()[1:]).command == command


def test_a_reader_that_has_enough():
    command = [sys.executable, "-m", "metagrad", "plan", *SIZES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


# --- metagrad plan --------------------------------------------------------------------------------


def test_the_plan_is_that_of_auto(capsys):
    text = printed(capsys, "plan", *SIZES)
    state = parse_bytes("", "1.8GiB")
    sizes = Sizes(state, state // 3)
    costs = Costs(sizes, inner=0.88, update=0.12, vjp=2.36)
    plan = metagrad.Auto("40GiB").plan(3125, gradients=True, sizes=sizes, measure=lambda: costs)
    assert text.startswith("Auto(memory='40GiB'): 3,125 steps\n")
    assert f"advances   {plan.advances:,}, " in text
    row = table(text)["Auto, one program"]
    assert row["state slots"] == str(plan.state_slots)
    assert row["gradient slots"] == str(plan.gradient_slots)
    assert row["time"] == f"{plan.predicted_seconds / 3125:.2f}"
    assert memory(plan, sizes) <= parse_bytes("", "40GiB")
    assert "time       not predicted in seconds" in text, "seconds are not known, and not made up"


def test_no_other_schedule_that_fits_is_faster(capsys):
    rows = table(printed(capsys, "plan", *SIZES))
    assert [name.partition("(")[0] for name in rows] == [
        "Auto, one program",
        "StoreAll",
        "Binomial",
        "Periodic",
        "LazyKary",
    ]
    fitting = [float(row["time"]) for row in rows.values() if "does not fit" not in row["rest"]]
    assert float(rows["Auto, one program"]["time"]) <= 1.01 * min(fitting)
    assert "does not fit" in rows["StoreAll(keep_gradients=False)"]["rest"]


def test_states_in_host_memory(capsys):
    text = printed(capsys, "plan", *SIZES, "--host", "400GiB")
    assert text.startswith("3,125 steps, streamed in ")
    rows = table(text)
    assert float(rows["Auto, streamed"]["time"]) < float(rows["Auto, one program"]["time"])
    assert "predicted" not in text


def test_seconds_and_slow_moves(capsys):
    sizes = (*SIZES, "--host", "400GiB", "--step-seconds", "0.31")
    fast = printed(capsys, "plan", *sizes)
    slow = printed(capsys, "plan", *sizes, "--host-rate", "100MB")
    assert "of it waiting for moves" in fast and "Moves of states are taken to be free" in fast
    assert "Moves of states are counted for: host." in slow
    assert table(fast)["Auto, streamed"]["time"] != table(slow)["Auto, streamed"]["time"]


def test_a_step_without_gradients_to_keep(capsys):
    rows = table(printed(capsys, "plan", *SIZES, "--gradient", "0"))
    assert {row["gradient slots"] for row in rows.values()} == {"0"}


def test_what_fits_is_stored(capsys):
    text = printed(capsys, "plan", "--steps", "10", "--state", "3MB", "--memory", "1GB")
    rows = table(text)
    assert rows["StoreAll()"]["time"] == "3.36"
    assert float(rows["Auto, one program"]["time"]) < 1.01 * 3.36


def test_nothing_fits(capsys):
    assert main(["plan", "--steps", "9", "--state", "2GiB", "--memory", "1GiB"]) == 1
    streams = capsys.readouterr()
    assert 'Set memory="2.01GiB" or more' in streams.err
    rest = [row["rest"] for row in table(streams.out).values()]
    assert rest == 4 * [["does not fit"]]


def test_only_one_of_the_two_is_possible(capsys):
    small = ("--steps", "100", "--state", "1GB", "--memory", "1.5GB", "--host")
    text = printed(capsys, "plan", *small, "1MB")
    assert "Auto, streamed" not in table(text)
    assert "\nNot possible: Auto(memory='1.5GB', host='1MB'): no slot for a state" in text
    many = ("plan", "--steps", "9", "--state", "3MB", "--batch", "1GB", "--memory", "5GB")
    text = printed(capsys, *many, "--host", "1GB")
    assert "Auto, one program" not in table(text) and "Auto, streamed" in table(text)
    assert "\nNot possible: Auto(memory='5GB', host='1GB'): no plan for 9 steps fits" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--state", "1.8Gib/s"), "argument --state: the size must be a number of bytes"),
        (("--state", "4G"), "Write GB for powers of 1000"),
        (("--memory", "-3"), "argument --memory"),
        (("--update", "1.5"), "argument --update: it is a part of a step, below 1, not 1.5"),
        (("--vjp", "0"), "argument --vjp: '0' is not a number above zero"),
        (("--step-seconds", "nan"), "argument --step-seconds: 'nan' is not a number above zero"),
        (("--host-rate", "9GB"), "argument --host-rate: moves are weighed against steps"),
        (("--host-rate", "0"), "argument --host-rate: must be above zero"),
        (("--steps", "0"), "argument --steps: must be at least 1, not 0"),
        (("--steps", "10000000"), "argument --steps: must be at most 2,000,000, not 10,000,000"),
    ],
)
def test_mistakes_in_the_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["plan", *SIZES, *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
