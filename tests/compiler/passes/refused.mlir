// What the passes and the command line itself refuse.

// RUN: not metagrad-opt %s --pass=cut,mend 2>&1 | filecheck %s --check-prefix=UNKNOWN
// UNKNOWN: metagrad-opt: there is no pass 'mend'; there are raise-gradients, scalar-slices, verify, cut, differentiate, widen-counters,

// RUN: not metagrad-opt %s --pass=cut,differentiate 2>&1 | filecheck %s --check-prefix=MISSING
// MISSING: metagrad-opt: pass 'differentiate': the module has no function @outer

// RUN: not metagrad-opt %s --pass=schedule --steps=3 2>&1 | filecheck %s --check-prefix=EARLY
// EARLY: metagrad-opt: pass 'schedule': the module has no function @inner

// RUN: not metagrad-opt %s --pass=schedule 2>&1 | filecheck %s --check-prefix=STEPS
// STEPS: metagrad-opt: pass 'schedule' needs --steps=T, the number of training steps

// RUN: not metagrad-opt %s --pass=schedule --steps=0 2>&1 | filecheck %s --check-prefix=ZERO
// ZERO: metagrad-opt: {{.*}}0

// RUN: not metagrad-opt %s --pass=schedule --steps=3 --schedule='Lazy(4)' 2>&1 | filecheck %s --check-prefix=NAME
// NAME: metagrad-opt: 'Lazy(4)' is not a schedule; write one of LazyKary, Binomial, Periodic, StoreAll with its arguments, like LazyKary(k=4)

// RUN: not metagrad-opt %s --pass=schedule --steps=3 --schedule='LazyKary(k=open("x"))' 2>&1 | filecheck %s --check-prefix=LITERAL
// LITERAL: metagrad-opt: 'LazyKary(k=open("x"))' is not a schedule

// RUN: not metagrad-opt %s --pass=schedule --steps=3 --schedule='LazyKary(arity=4)' 2>&1 | filecheck %s --check-prefix=KEYWORD
// KEYWORD: metagrad-opt: 'LazyKary(arity=4)': {{.*}}arity

// RUN: not metagrad-opt %s --pass=schedule --steps=3 --schedule='LazyKary(k=1)' 2>&1 | filecheck %s --check-prefix=SMALL
// SMALL: metagrad-opt: {{.*}}k

// RUN: not metagrad-opt no_such_file.mlir 2>&1 | filecheck %s --check-prefix=FILE
// FILE: metagrad-opt: [Errno 2] No such file or directory: 'no_such_file.mlir'

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %n = stablehlo.multiply %w, %z : tensor<f32>
    return %n : tensor<f32>
  }
}
