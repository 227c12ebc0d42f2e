// What the command line of metagrad-opt offers beside the passes.

// Options of a pass, in braces. The old flags are what holds where there are none.
// RUN: metagrad-opt %s --pass='cut,differentiate,schedule{schedule=StoreAll() steps=3}' | filecheck %s --check-prefix=OPTIONS
// RUN: metagrad-opt %s --pass='cut,differentiate,schedule{steps=3}' --schedule='StoreAll()' --steps=1000 | filecheck %s --check-prefix=OPTIONS
// RUN: metagrad-opt %s --pass='cut,differentiate,schedule{schedule=Periodic(2, rebuild=1) steps=3}' 2>&1 | filecheck %s --check-prefix=OPTIONS
// OPTIONS: func.func public @main(%arg0: tensor<f32>, %arg1: tensor<f32>)
// OPTIONS: tensor<4xi32>

// RUN: not metagrad-opt %s --pass='cut{steps=3}' 2>&1 | filecheck %s --check-prefix=NONE
// NONE: metagrad-opt: pass 'cut' has no option 'steps'; it has none

// RUN: not metagrad-opt %s --pass='schedule{step=3}' 2>&1 | filecheck %s --check-prefix=MISSPELT
// MISSPELT: metagrad-opt: pass 'schedule' has no option 'step'; it has schedule, steps

// RUN: not metagrad-opt %s --pass='schedule{steps}' 2>&1 | filecheck %s --check-prefix=VALUE
// VALUE: metagrad-opt: pass 'schedule': write steps=VALUE

// RUN: not metagrad-opt %s --pass='cut,schedule{steps=many}' 2>&1 | filecheck %s --check-prefix=NUMBER
// NUMBER: metagrad-opt: pass 'schedule': steps=many is not a number of training steps

// RUN: not metagrad-opt %s --pass='schedule{steps=3' 2>&1 | filecheck %s --check-prefix=OPEN
// OPEN: metagrad-opt: 'schedule{steps=3' lacks a closing '}'

// RUN: not metagrad-opt %s --pass='schedule{steps=3}cut' 2>&1 | filecheck %s --check-prefix=COMMA
// COMMA: metagrad-opt: pass 'schedule': after its options comes a comma, not 'steps=3}cut'

// The module after a pass, on the standard error.
// RUN: metagrad-opt %s --pass=cut,differentiate --print-after=cut 2>&1 | filecheck %s --check-prefix=AFTER
// AFTER:     // after cut
// AFTER:     func.func private @update
// AFTER-NOT: // after
// AFTER:     func.func private @step_vjp

// RUN: metagrad-opt %s --pass=cut,differentiate --print-after=all 2>&1 | filecheck %s --check-prefix=ALL
// ALL: // after cut
// ALL: // after differentiate

// RUN: not metagrad-opt %s --pass=cut --print-after=mend 2>&1 | filecheck %s --check-prefix=UNKNOWN
// UNKNOWN: metagrad-opt: --print-after: there is no pass 'mend'; there are all, raise-gradients

// RUN: metagrad-opt %s --pass=cut,differentiate --timing 2>&1 | filecheck %s --check-prefix=TIMING
// TIMING: {{[0-9]+\.[0-9]+}} s  cut
// TIMING: {{[0-9]+\.[0-9]+}} s  differentiate
// TIMING: {{[0-9]+\.[0-9]+}} s  total

// RUN: metagrad-opt %s --pass=cut,differentiate --no-verify-each | filecheck %s --check-prefix=VERIFIED
// RUN: metagrad-opt %s --pass=cut,differentiate --verify-each | filecheck %s --check-prefix=VERIFIED
// VERIFIED: func.func private @step_vjp

module attributes {metagrad.arguments = {state = 1 : i64, meta = 1 : i64, batch = 0 : i64, outer = 0 : i64}, metagrad.wrt = ["meta"], metagrad.between_steps = [0]} {
  func.func public @step(%w: tensor<f32>, %z: tensor<f32>) -> tensor<f32> {
    %n = stablehlo.multiply %w, %z : tensor<f32>
    return %n : tensor<f32>
  }
  func.func public @outer(%w: tensor<f32>) -> tensor<f32> {
    return %w : tensor<f32>
  }
}
